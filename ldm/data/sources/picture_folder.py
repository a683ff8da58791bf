"""A folder of pictures, with captions in text files beside them or in `metadata.jsonl`."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm.data.caption_fields import TEXT_SUFFIXES, captions_of
from ldm.data.decoding import PICTURE_SUFFIXES
from ldm.data.shards import Sample
from ldm.data.sources.source import digest

METADATA_FILE = "metadata.jsonl"


@dataclass(frozen=True)
class _Row:
    """A line of a `metadata.jsonl`: what it says, and where it is."""

    meta: dict[str, Any]
    place: str


class PictureFolder:
    """The pictures of a folder and of all folders below, sorted by path; hidden ones are left out.

    Captions are the lines of `x.txt` (or `x.caption`) beside `x.png`, or what a `metadata.jsonl` in the picture's
    folder or one above says of `file_name`, which is relative to that file, as in Hugging Face's imagefolder.

    Args:
        folder: the folder.
        caption_field: of `metadata.jsonl`, that holds the captions; empty finds them as `captions_of` does.

    Raises:
        ValueError: a line of a `metadata.jsonl` is no JSON object with `file_name`.
    """

    def __init__(self, folder: Path, caption_field: str = "") -> None:
        self._folder, self._caption_field = folder, caption_field
        files = set(_walk(folder))
        self._texts = {path for path in files if _suffix(path) in TEXT_SUFFIXES}
        self._rows = dict(_rows(folder, files))
        self._paths = sorted({path for path in files if _suffix(path) in PICTURE_SUFFIXES} | set(self._rows))
        self.fingerprint = digest(*(self._stamp(path) for path in self._paths))

    def __len__(self) -> int:
        return len(self._paths)

    def key(self, index: int) -> str:
        """The path inside the folder."""
        return self._paths[index]

    def where(self, index: int) -> str:
        """The file's path."""
        return str(self._folder / self._paths[index])

    def meta(self, index: int) -> dict[str, Any]:
        """What `metadata.jsonl` says, with `captions`."""
        path = self._paths[index]
        row = self._rows.get(path)
        meta = row.meta if row else {}
        return {**meta, "captions": captions_of(meta, self._text(path), self._caption_field)}

    def read(self, index: int) -> Sample:
        """The file's content. Raises ValueError if it is missing or cannot be read."""
        path = self._paths[index]
        try:
            return Sample(path, (self._folder / path).read_bytes(), self.meta(index))
        except OSError as error:
            row = self._rows.get(path)
            named = f", although {row.place} names it" if row else ""
            raise ValueError(f"{error.strerror or error}{named}") from error

    def _text(self, path: str) -> str | None:
        stem = path.rpartition(".")[0]
        for suffix in TEXT_SUFFIXES:
            if f"{stem}.{suffix}" in self._texts:
                return (self._folder / f"{stem}.{suffix}").read_text(encoding="utf-8-sig", errors="replace")
        return None

    def _stamp(self, path: str) -> str:
        try:
            about = (self._folder / path).stat()
        except OSError:
            return f"{path} missing"
        return f"{path} {about.st_size} {about.st_mtime_ns}"


def holds_pictures(folder: Path) -> bool:
    """Whether a folder or one below has a picture or a `metadata.jsonl`."""
    return any(_suffix(path) in PICTURE_SUFFIXES or Path(path).name == METADATA_FILE for path in _walk(folder))


def _walk(folder: Path) -> Iterator[str]:
    """The files below `folder`, as paths relative to it, without hidden ones."""
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(root).relative_to(folder)
        for name in names:
            if not name.startswith("."):
                yield (inside / name).as_posix()


def _rows(folder: Path, files: set[str]) -> Iterator[tuple[str, _Row]]:
    for table in sorted(path for path in files if Path(path).name == METADATA_FILE):
        with (folder / table).open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                place = f"{folder / table} line {number}"
                try:
                    meta = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{place} is not JSON ({error}); correct or delete the line") from None
                if not isinstance(meta, dict) or not isinstance(meta.get("file_name"), str):
                    raise ValueError(f"{place} has no file_name; write the picture's path beside {METADATA_FILE} there")
                path = os.path.normpath(Path(table).parent / meta.pop("file_name"))
                yield Path(path).as_posix(), _Row(meta, place)


def _suffix(path: str) -> str:
    return path.rpartition(".")[2].lower()
