"""Tables of metadata beside pictures, `metadata.jsonl`, `.csv` or `.parquet`, as in Hugging Face's imagefolder."""

import csv
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_NUMBERS = ("label", "weight")


@dataclass(frozen=True)
class Row:
    """The metadata of one picture in a table.

    Attributes:
        file_name: of the picture, relative to the table.
        meta: all other columns that have a value.
        number: of the line, or of a Parquet file's row, from 1 on.
    """

    file_name: str
    meta: dict[str, Any]
    number: int


def read_table(file: Path) -> Iterator[Row]:
    """The rows of one of `METADATA_FILES`.

    Every cell of a CSV is a text; those of `label` and `weight` become numbers where they are such.

    Raises:
        ValueError: the table or a row of it cannot be read, or names no picture; says which.
    """
    rows = {".jsonl": _json_lines, ".csv": _csv_lines, ".parquet": _parquet_rows}[file.suffix](file)
    try:
        for number, record in rows:
            if not isinstance(record, dict) or not isinstance(record.get("file_name"), str):
                place = place_in(file, number)
                raise ValueError(f"{place} has no file_name; write the picture's path beside {file.name} there")
            yield Row(record.pop("file_name"), record, number)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}); save it as UTF-8") from None


def place_in(table: Path | str, number: int) -> str:
    """A row of a table, for people."""
    return f"{table} {'row' if str(table).endswith('.parquet') else 'line'} {number}"


def _json_lines(file: Path) -> Iterator[tuple[int, Any]]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                place = place_in(file, number)
                raise ValueError(f"{place} is not JSON ({error}); correct or delete the line") from None


def _csv_lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        try:
            for cells in reader:
                if None in cells:
                    place = place_in(file, reader.line_num)
                    raise ValueError(f"{place} has more cells than the header; put texts with commas into quotes")
                yield reader.line_num, {name: _read_cell(name, cell) for name, cell in cells.items() if cell}
        except csv.Error as error:
            place = place_in(file, reader.reader.line_num)
            raise ValueError(f"{place} is not CSV ({error}); correct or delete the line") from None


def _read_cell(name: str, cell: str) -> str | int | float:
    if name in _NUMBERS:
        for kind in (int, float):
            with suppress(ValueError):
                return kind(cell)
    return cell


def _parquet_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"{file} needs a package ({error}); pip install 'ldm[data]'") from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches():
                for record in batch.to_pylist():
                    number += 1
                    yield number, {name: value for name, value in record.items() if value is not None}
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file} is no whole Parquet file ({reason}); write or copy it again") from None
