"""Prompts for parts of the picture: `sky ADDROW castle ADDCOL tree`."""

import re
from dataclasses import dataclass
from typing import NamedTuple


class RegionText(NamedTuple):
    """A part of the picture and its prompt."""

    text: str
    box: tuple[float, float, float, float]
    """left, top, right, bottom as fractions of the picture, 0 to 1."""


@dataclass(frozen=True)
class Layout:
    """A picture in parts. `base` is the prompt for all of it that is mixed with each part's, None where none is."""

    base: str | None
    regions: tuple[RegionText, ...]


def lay_out(text: str) -> Layout:
    """Read the notation of A1111's Regional Prompter; a prompt without its words is one region, the whole picture.

    `ADDROW` starts a row below, `ADDCOL` a column to the right in the same row; rows are of equal height, the columns
    of a row of equal width. What stands before `ADDBASE` is the base; what stands before `ADDCOMM`, first of all, is
    put before the prompt of each region.
    """
    common, _, rest = _first(text, "ADDCOMM")
    base, found, rest = _first(rest, "ADDBASE")
    rows = [re.split(r"\bADDCOL\b", row) for row in re.split(r"\bADDROW\b", rest)]
    regions = [
        RegionText(_joined(common, cell), (x / len(row), y / len(rows), (x + 1) / len(row), (y + 1) / len(rows)))
        for y, row in enumerate(rows)
        for x, cell in enumerate(row)
    ]
    if len(regions) == 1:
        regions = [RegionText(_joined(common, rest) if common else rest, regions[0].box)]
    return Layout(base.strip() if found else None, tuple(regions))


def _first(text: str, word: str) -> tuple[str, bool, str]:
    before, *after = re.split(rf"\b{word}\b", text, maxsplit=1)
    return (before, True, after[0]) if after else ("", False, text)


def _joined(common: str, cell: str) -> str:
    return ", ".join(part for part in (common.strip().rstrip(","), cell.strip()) if part)
