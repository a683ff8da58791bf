"""Tables of metadata beside pictures, `metadata.jsonl`, `.csv` or `.parquet`, as in Hugging Face's imagefolder."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm.data.sources.text_encodings import decode_text

METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
NAME_FIELDS = ("file_name", "filename", "image", "file", "path")
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


def read_table(file: Path, skipped: list[str]) -> Iterator[Row]:
    """The rows of one of `METADATA_FILES` that name a picture, in one of `NAME_FIELDS`.

    Every cell of a CSV is a text; those of `label` and `weight` become numbers where they are such. Its cells may be
    separated by commas, semicolons or tabs.

    Args:
        file: the table.
        skipped: gets a line for each row that is passed over, and for a table that is not UTF-8.

    Raises:
        ValueError: no row can be read, or none names a picture; says which columns there are.
    """
    if file.suffix == ".parquet":
        rows: Iterator[tuple[int, Any]] = _parquet_rows(file)
    else:
        rows = {".jsonl": _json_lines, ".csv": _csv_lines}[file.suffix](file, skipped)
    columns: dict[str, None] = {}
    found = False
    for number, record in rows:
        name = _name_field(record)
        if name:
            found = True
            yield Row(record.pop(name), record, number)
        else:
            columns |= dict.fromkeys(record if isinstance(record, dict) else ())
            skipped.append(f"{place_in(file, number)} has no picture's path in {' or '.join(NAME_FIELDS)}")
    if not found and columns:
        raise ValueError(
            f"{file} has the columns {', '.join(columns)}; name the one with the pictures' paths {NAME_FIELDS[0]}"
        )
    if not found and skipped:
        raise ValueError(f"{skipped[-1]}; correct or delete the line")


def _name_field(record: Any) -> str:
    """The column that names the picture, or nothing."""
    if not isinstance(record, dict):
        return ""
    return next((field for field in NAME_FIELDS if isinstance(record.get(field), str)), "")


def place_in(table: Path | str, number: int) -> str:
    """A row of a table, for people."""
    return f"{table} {'row' if str(table).endswith('.parquet') else 'line'} {number}"


def _read_text(file: Path, skipped: list[str]) -> str:
    text, odd = decode_text(file.read_bytes())
    if odd:
        skipped.append(f"{file} is {odd}")
    return text


def _json_lines(file: Path, skipped: list[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_read_text(file, skipped).split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            skipped.append(f"{place_in(file, number)} is not JSON ({error})")


def _csv_lines(file: Path, skipped: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    text = _read_text(file, skipped)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=_separator(text))
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            skipped.append(f"{place_in(file, reader.reader.line_num)} is not CSV ({error})")
            continue
        if None in cells:
            place = place_in(file, reader.line_num)
            skipped.append(f"{place} has more cells than the header; put texts with commas into quotes")
            continue
        yield reader.line_num, {name: _read_cell(name, cell) for name, cell in cells.items() if cell}


def _separator(text: str) -> str:
    """Of the header's cells: the first separator that gives a column for pictures, else a comma."""
    header = text.split("\n", 1)[0]
    for separator in ",;\t":
        if any(cell.strip().strip('"') in NAME_FIELDS for cell in header.split(separator)):
            return separator
    return ","


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
