"""A folder of pictures, with captions in text files beside them or in tables of metadata."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from ldm.data.pictures.decoding import PICTURE_SUFFIXES
from ldm.data.sources.caption_fields import TEXT_SUFFIXES, captions_of
from ldm.data.sources.class_labels import outside_classes
from ldm.data.sources.line_index import LineIndex
from ldm.data.sources.metadata_table import METADATA_FILES, place_in, read_table
from ldm.data.sources.source import NOTE, digest
from ldm.data.sources.text_encodings import decode_text
from ldm.io.disk.files import write_file

_log = logging.getLogger(__name__)

_INDEX_FORMAT = 2
_AT_ONCE = 8


class PictureFolder:
    """The pictures of a folder and of all folders below, sorted by path; hidden ones are left out.

    Captions are the lines of `x.txt` (or `x.caption`; `X.TXT` too) beside `x.png`, or what a table of metadata in the
    picture's folder or one above says of `file_name`, relative to that table, as in Hugging Face's imagefolder.

    What texts and tables say is read once and kept in `cache/index/`. It is read anew when one of these files comes,
    goes, or has another size or time of change; that is looked at here, and not again while the folder is open.

    Attributes:
        skipped: rows of the tables that were passed over, and why; found when the tables are read.

    Args:
        folder: the folder.
        caption_field: of the metadata, that holds the captions; empty finds them as `captions_of` does.
        cache: folder that keeps what texts and tables say; None, and a folder that cannot be written, keep nothing.
        classes: names of the folders in `folder` that stand for a class each; its place here becomes the `label`.

    Raises:
        ValueError: a table of metadata has no row that can be read, two of them are in one folder, or a picture lies in
            no class folder.
        OSError: a text file or table cannot be read.
    """

    def __init__(
        self, folder: Path, caption_field: str = "", cache: Path | None = None, classes: Sequence[str] | None = None
    ) -> None:
        self._folder, self._caption_field = folder, caption_field
        files = set(_walk(folder))
        self.skipped: list[str] = []
        self._lines = LineIndex([_index(folder, files, cache, self.skipped)])
        if self.skipped:
            _log.warning("%d rows passed over (%s); `ldm data check` lists all", len(self.skipped), self.skipped[0])
        self._paths: list[str] = [self._lines[i]["path"] for i in range(len(self._lines))]
        self._labels = None if classes is None else self._class_labels(classes)
        self.fingerprint = digest(*(_stamp(folder, path) for path in self._paths))

    def __len__(self) -> int:
        return len(self._paths)

    def key(self, index: int) -> str:
        """The path inside the folder."""
        return self._paths[index]

    def where(self, index: int) -> str:
        """The file's path."""
        return str(self._folder / self._paths[index])

    def where_metadata(self, index: int) -> str:
        """The row of the table that names the picture, or the picture's path."""
        return self._row(self._lines[index]) or self.where(index)

    def metadata(self, index: int) -> dict[str, Any]:
        """The metadata of picture `index`, with `captions`, and with the number of the class folder as `label`."""
        line = self._lines[index]
        meta = line["meta"] or {}
        label = {} if self._labels is None else {"label": self._labels[self._class(index)]}
        note = {NOTE: line["note"]} if line["note"] else {}
        return {**meta, **label, **note, "captions": captions_of(meta, line["text"], self._caption_field)}

    def picture(self, index: int) -> bytes:
        """The file's content.

        Raises:
            ValueError: it is missing or cannot be read.
        """
        path = self._paths[index]
        try:
            return (self._folder / path).read_bytes()
        except OSError as error:
            row = self._row(self._lines[index])
            named = f", although {row} names it" if row else ""
            raise ValueError(f"{error.strerror or error}{named}") from error

    def _row(self, line: dict[str, Any]) -> str:
        return place_in(self._folder / line["table"], line["row"]) if line["table"] else ""

    def _class(self, index: int) -> str:
        return self._paths[index].partition("/")[0]

    def _class_labels(self, classes: Sequence[str]) -> dict[str, int]:
        labels = {name: number for number, name in enumerate(classes)}
        for i in range(len(self._paths)):
            if wrong := outside_classes(self.key(i), labels):
                raise ValueError(f"{self.where(i)} {wrong}")
        return labels


def holds_pictures(folder: Path) -> bool:
    """Whether a folder or one below has a picture or a table of metadata."""
    return any(_suffix(path) in PICTURE_SUFFIXES or Path(path).name in METADATA_FILES for path in _walk(folder))


def _walk(folder: Path) -> Iterator[str]:
    """The files below `folder`, as paths relative to it, without hidden ones."""
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(root).relative_to(folder)
        for name in names:
            if not name.startswith("."):
                yield (inside / name).as_posix()


def _index(folder: Path, files: set[str], cache: Path | None, skipped: list[str]) -> bytes:
    """The metadata of all pictures, sorted by path, one JSON object a line; from the cache if nothing has changed."""
    pictures = sorted(path for path in files if _suffix(path) in PICTURE_SUFFIXES)
    tables = sorted(path for path in files if Path(path).name in METADATA_FILES)
    texts = sorted(path for path in files if _suffix(path) in TEXT_SUFFIXES)
    stamps = [_stamp(folder, path) for path in (*tables, *texts)]
    file = cache and cache / "index" / f"folder-{digest(str(_INDEX_FORMAT), *pictures, *stamps)}.jsonl"
    if file and file.is_file():
        return file.read_bytes()
    lines = b"".join(_described(folder, pictures, _rows(folder, tables, skipped), set(texts)))
    if file:
        with suppress(OSError):  # a folder that may only be read is read again the next time
            write_file(file, lines)
    return lines


def _described(folder: Path, pictures: list[str], rows: dict[str, dict[str, Any]], texts: set[str]) -> Iterator[bytes]:
    any_case = {name.lower(): name for name in sorted(texts, reverse=True)}

    def describe(path: str) -> bytes:
        stem = path.rpartition(".")[0]
        names = [f"{stem}.{suffix}" for suffix in TEXT_SUFFIXES]
        beside = next((name for name in names if name in texts), None)
        beside = beside or next((any_case[name.lower()] for name in names if name.lower() in any_case), None)
        text, odd = decode_text((folder / beside).read_bytes()) if beside else (None, "")
        note = f"its caption {beside} is {odd}" if odd else ""
        line = {"path": path, "text": text, "note": note, **rows.get(path, {"meta": None, "table": "", "row": 0})}
        return json.dumps(line, default=str).encode() + b"\n"

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        yield from pool.map(describe, sorted({*pictures, *rows}))


def _rows(folder: Path, tables: list[str], skipped: list[str]) -> dict[str, dict[str, Any]]:
    """The rows of the metadata tables, by path."""
    rows: dict[str, dict[str, Any]] = {}
    for before, table in zip(["", *tables], tables, strict=False):
        inside = Path(table).parent
        if before and Path(before).parent == inside:
            raise ValueError(f"{folder / table} lies beside {Path(before).name}; keep one of them")
        for row in read_table(folder / table, skipped):
            path = Path(os.path.normpath(inside / row.file_name)).as_posix()
            rows[path] = {"meta": row.meta, "table": table, "row": row.number}
    return rows


def _stamp(folder: Path, path: str) -> str:
    try:
        about = (folder / path).stat()
    except OSError:
        return f"{path} missing"
    return f"{path} {about.st_size} {about.st_mtime_ns}"


def _suffix(path: str) -> str:
    return path.rpartition(".")[2].lower()
