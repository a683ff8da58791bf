"""Shards in the WebDataset layout: tars of `000123.png` with `.json` or `.txt`; equal content gives equal bytes."""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from ldm.data.pictures.decoding import PICTURE_SUFFIXES
from ldm.data.sources.addresses import open_file
from ldm.data.sources.caption_fields import TEXT_SUFFIXES, captions_of
from ldm.io.disk.files import replace_file


@dataclass(frozen=True)
class Sample:
    """One picture of a shard: its key, the encoded picture and what is known about it.

    Attributes:
        key: name inside the shard, without a suffix.
        picture: encoded picture, or None when the shard has no picture under this key.
        meta: the json beside it, or None when there is none.
    """

    key: str
    picture: bytes | None
    meta: dict[str, Any] | None


@dataclass(frozen=True)
class Entry:
    """One sample of a shard, without the picture itself.

    Attributes:
        key: as of `Sample`.
        place: offset and length of the picture in the shard, or None.
        meta: the json, or None.
        text: the text file, or None.
    """

    key: str
    place: tuple[int, int] | None = None
    meta: dict[str, Any] | None = None
    text: str | None = None

    @property
    def described(self) -> dict[str, Any] | None:
        """The json, with `captions` if there are any, here or in the text; None without both."""
        captions = captions_of(self.meta or {}, self.text)
        if "captions" in (self.meta or {}) or not captions:
            return self.meta
        return {**(self.meta or {}), "captions": captions}


def write_shard(path: Path, samples: Iterable[Sample]) -> int:
    """Write `samples` to the tar file `path` and return their number.

    The file appears under its name only when it is complete. Owner, time and mode of the members are fixed, and the
    json is written with sorted keys, so equal samples give equal bytes.
    """
    written = 0
    with replace_file(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for sample in samples:
            if sample.picture is not None:
                _add(archive, f"{sample.key}.png", sample.picture)
            if sample.meta is not None:
                _add(archive, f"{sample.key}.json", encode_json(sample.meta))
            written += 1
    return written


def read_shard(path: Path | str) -> Iterator[Sample]:
    """Yield the samples of one tar file, by path or address, in order.

    Members that share a key must be neighbours, as WebDataset requires.

    A `.txt` beside the picture, one caption a line, or `caption` in the json become `captions` in `meta`.

    Raises:
        ValueError: the file is not a complete tar archive, or a json in it cannot be parsed or is not an object.
        OSError: it is not there, or cannot be reached.
    """
    with open_file(str(path)) as tar:
        for entry in scan_shard(tar, str(path)):
            picture = None if entry.place is None else read_place(tar, entry.place)
            yield Sample(entry.key, picture, entry.described)


def scan_shard(tar: BinaryIO, name: str) -> Iterator[Entry]:
    """Yield what is where in a tar file, in order, without reading the pictures.

    Args:
        tar: the file, which can be moved about in.
        name: of the file, for errors.

    Raises:
        ValueError: as `read_shard`.
    """
    entry: Entry | None = None
    try:
        with tarfile.open(fileobj=tar, mode="r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                stem, _, suffix = member.name.rpartition(".")
                suffix = suffix.lower()
                if entry is not None and stem != entry.key:
                    yield entry
                    entry = None
                entry = entry or Entry(stem)
                place = member.offset_data, member.size
                if suffix in PICTURE_SUFFIXES:
                    entry = replace(entry, place=place)
                elif suffix == "json":
                    entry = replace(entry, meta=json.loads(read_place(tar, place)))
                    if not isinstance(entry.meta, dict):
                        raise ValueError(f"{member.name} is not a json object")
                elif suffix in TEXT_SUFFIXES:
                    entry = replace(entry, text=read_place(tar, place).decode("utf-8-sig"))
            # tarfile takes a missing or damaged header for the end; only blocks of zeros are one.
            if read_place(tar, (archive.offset, tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
                raise ValueError("it ends before its end mark")
    except (tarfile.TarError, ValueError) as error:
        raise ValueError(f"{name}: broken shard ({error}); delete it and build the data set again") from error
    if entry is not None:
        yield entry


def read_place(tar: BinaryIO, place: tuple[int, int]) -> bytes:
    """The bytes at `place`, an offset and a length."""
    tar.seek(place[0])
    return tar.read(place[1])


def encode_json(value: Any) -> bytes:
    """Compact UTF-8 json with sorted keys."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o644
    archive.addfile(member, io.BytesIO(content))
