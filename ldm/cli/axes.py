"""Axes of a grid: an option and its values, with A1111's ranges and its search and replace."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from ldm.cli.options import field_named, value_of
from ldm.generation.request import Request
from ldm.generation.setting import setting_of

_NUMBER = r"\s*([+-]?\d*\.?\d+)\s*"
_RANGE = re.compile(rf"{_NUMBER}-{_NUMBER}(?:\(\s*([+-]\d*\.?\d+)\s*\))?\s*")
_COUNT = re.compile(rf"{_NUMBER}-{_NUMBER}\[\s*(\d+)\s*\]\s*")
_COLONS = re.compile(rf"{_NUMBER}:{_NUMBER}:\s*(\d+)\s*")
_ENTRY = re.compile(r"([\w -]+)\.(\w+)")
_SEARCH = ("s/r", "sr", "prompt s/r", "prompts/r")
_TEXTS = ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2")
_MOST = 1000


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        name: as it was written, for labels.
        texts: of the values, for labels.
        changes: fields of `Request` that each value sets; empty for search and replace.
        search: what each of `texts` takes the place of; empty for options.
    """

    name: str
    texts: tuple[str, ...]
    changes: tuple[dict[str, Any], ...] = ()
    search: str = ""

    @property
    def labels(self) -> list[str]:
        """One per value, for people."""
        return list(self.texts) if self.search else [f"{self.name} {text}".strip() for text in self.texts]

    def applied(self, request: Request, number: int) -> Request:
        """The request with value `number`."""
        if not self.search:
            return request.changed(self.changes[number])
        changes = {name: _replaced(getattr(request, name), self.search, self.texts[number]) for name in _TEXTS}
        return replace(request, **changes)


def parse_axis(option: str, text: str, request: Request) -> Axis:
    """`steps=10,20,30`, `cfg=1:7:4`, `sampler=ddim,euler`, `sampler-option.eta=0-1[5]`, `S/R=apple,pear`.

    Values are split at commas; one that holds a comma stands in double quotes. For numbers `1-5` is 1, 2, ..., 5,
    `1-5(+2)` 1, 3, 5, `1-10[4]` and `1:10:4` are four numbers from 1 to 10.

    Args:
        option: `--x`, for messages.
        text: of the axis.
        request: that the axis changes.

    Raises:
        ValueError: no such option, a value that it cannot have, or a word to replace that is in no prompt.
    """
    name, equals, values = text.partition("=")
    name = name.strip()
    if not equals or not name or not values.strip():
        raise ValueError(f"{option} {text} has no values; write {option} steps=10,20,30")
    try:
        pieces = [piece.strip() for piece in next(csv.reader([values.strip()], skipinitialspace=True, strict=True))]
    except csv.Error as error:
        raise ValueError(f"{option} {text}: {error}") from None
    if name.lower() in _SEARCH:
        search = pieces[0]
        if not search or not any(search in (getattr(request, each) or "") for each in _TEXTS):
            raise ValueError(f"{option} {text}: {search!r} is in no prompt; begin with the words to replace")
        return Axis(name, tuple(pieces), search=search)
    try:
        split = _ENTRY.fullmatch(name)
        field, entry = (name, "") if split is None else (split[1], split[2])
        each = field_named(field)
        if entry and not setting_of(each).read:
            raise ValueError(f"{field!r} has no {entry!r}; leave it out")
        kinds = get_args(each.type) or (each.type,)
        kind = next((kind for kind in (int, float) if kind in kinds), float if entry else str)
        texts = [text for piece in pieces for text in (expand(piece, kind is int) if kind is not str else [piece])]
        if len(texts) > _MOST:
            raise ValueError(f"{len(texts):,} values are too many; use at most {_MOST:,}")
        values_of = [value_of(each, f"{entry}={text}" if entry else text, name) for text in texts]
    except ValueError as error:
        raise ValueError(f"{option} {text}: {error}") from None
    if each.name == "num_images_per_prompt":
        raise ValueError(f"{option} {text}: a cell holds one picture; write {option} seed=1-4")
    axis = Axis(name, tuple(texts), tuple({each.name: value} for value in values_of))
    for number in range(len(texts)):
        try:
            axis.applied(request, number).check(options=True)
        except ValueError as error:
            raise ValueError(f"{option} {text}: {error}") from None
    return axis


def expand(piece: str, whole: bool) -> list[str]:
    """The numbers of a range, ends included, as texts; anything else as it is."""
    if found := _COUNT.fullmatch(piece) or _COLONS.fullmatch(piece):
        first, last, count = float(found[1]), float(found[2]), int(found[3])
        if not 1 <= count <= _MOST:
            raise ValueError(f"{piece} has {count:,} values; use 1 to {_MOST:,}")
        numbers = [first + (last - first) * i / max(count - 1, 1) for i in range(count)]
    elif found := _RANGE.fullmatch(piece):
        first, last = float(found[1]), float(found[2])
        step = float(found[3]) if found[3] else (1.0 if last >= first else -1.0)
        steps = (last - first) / step if step else -1.0
        if not 0 <= steps < _MOST:
            raise ValueError(f"{piece} does not end, or has more than {_MOST:,} values; write FIRST-LAST(+STEP)")
        numbers = [first + i * step for i in range(int(steps + 1e-6) + 1)]
    else:
        return [piece]
    return list(dict.fromkeys(str(int(number)) if whole else f"{round(number, 6):g}" for number in numbers))


def cells(request: Request, axes: Sequence[Axis]) -> list[Request]:
    """The requests of all cells, the first axis fastest."""
    requests = [request]
    for axis in reversed(axes):
        requests = [axis.applied(each, number) for each in requests for number in range(len(axis.texts))]
    return requests


def _replaced(text: Any, search: str, word: str) -> Any:
    return text.replace(search, word) if isinstance(text, str) else text
