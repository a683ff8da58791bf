"""Shards in the WebDataset layout, here or elsewhere, with random access through an index of what is where."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ldm.data.sources.addresses import open_file, read_piece, stamp
from ldm.data.sources.caption_fields import captions_of
from ldm.data.sources.line_index import LineIndex
from ldm.data.sources.source import NOTE, digest
from ldm.data.sources.webdataset import scan_shard
from ldm.io.disk.files import write_file
from ldm.progress import Progress, silent, track

_INDEX_FORMAT = 2
_AT_ONCE = 8


class ShardSource:
    """The pictures of tar files, in their order.

    The first time, every shard is read through and what is where is kept in `cache/index/`, a file for each shard; a
    picture is then one read of its piece of the tar, also over the network.

    Args:
        shards: paths or addresses.
        cache: folder that keeps the index.
        caption_field: of the json, that holds the captions; empty finds them as `captions_of` does.
        progress: of the reading.

    Raises:
        OSError: a shard is not there, or cannot be reached.
        ValueError: a shard is broken.
    """

    def __init__(
        self, shards: Sequence[str], cache: Path, caption_field: str = "", progress: Progress = silent
    ) -> None:
        self._shards, self._caption_field = list(shards), caption_field
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            stamps = list(pool.map(stamp, self._shards))
            files = [cache / "index" / f"{digest(str(_INDEX_FORMAT), each)}.jsonl" for each in stamps]
            missing = [pair for pair in zip(self._shards, files, strict=True) if not pair[1].is_file()]
            if missing:
                done = pool.map(lambda pair: _index(*pair), missing)
                for _ in track(done, "looking through shards", progress, len(missing)):
                    pass
        self.fingerprint = digest(*stamps)
        contents = [file.read_bytes() for file in files]
        self._lines = LineIndex(contents)
        counts = [content.count(b"\n") for content in contents]
        self._shard_of = np.repeat(np.arange(len(files), dtype=np.int32), counts)

    def __len__(self) -> int:
        return len(self._lines)

    def key(self, index: int) -> str:
        """The shard's name and the key in it."""
        return f"{self._shard(index).rpartition('/')[2].removesuffix('.tar')}/{self._lines[index]['key']}"

    def where(self, index: int) -> str:
        """The shard and the key in it."""
        return f"{self._shard(index)}:{self._lines[index]['key']}"

    def where_metadata(self, index: int) -> str:
        """The shard and the json in it."""
        return f"{self.where(index)}.json"

    def metadata(self, index: int) -> dict[str, Any]:
        """The json, with `captions`."""
        line = self._lines[index]
        meta = line["meta"] or {}
        note = {NOTE: line["note"]} if line["note"] else {}
        return {**meta, **note, "captions": captions_of(meta, line["text"], self._caption_field)}

    def picture(self, index: int) -> bytes:
        """The picture's piece of its shard.

        Raises:
            OSError: it cannot be reached.
        """
        line = self._lines[index]
        return read_piece(self._shard(index), *line["place"])

    def _shard(self, index: int) -> str:
        return self._shards[self._shard_of[index]]


def _index(shard: str, file: Path) -> None:
    """Write down what is where in a shard: one JSON object a line for each picture."""
    with open_file(shard) as tar:
        lines = [
            json.dumps({name: getattr(entry, name) for name in ("key", "place", "meta", "text", "note")})
            for entry in scan_shard(tar, shard)
            if entry.place is not None
        ]
    write_file(file, "".join(line + "\n" for line in lines).encode())
