"""Class label and sampling weight of a picture, read from its JSON or its row of a table."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

NO_LABEL = -1


def label_of(meta: Mapping[str, Any]) -> int:
    """The class of a picture, `label`; -1 where none is given.

    Raises:
        ValueError: it is no whole number.
    """
    value = meta.get("label")
    if value is None:
        return NO_LABEL
    if not _is_number(value) or not float(value).is_integer():
        raise ValueError(f"label {value!r} is no whole number; write the number of its class, from 0 on")
    return int(value)


def weight_of(meta: Mapping[str, Any]) -> float:
    """How often a picture is drawn, `weight`, relative to others; 1 where none is given.

    Raises:
        ValueError: it is no finite number, or negative.
    """
    value = meta.get("weight")
    if value is None:
        return 1.0
    if not _is_number(value):
        raise ValueError(f"weight {value!r} is no finite number; write how often to draw it, 1 for as often as others")
    if value < 0:
        raise ValueError(f"weight {value!r} is negative; write 0 to leave the picture out, or more")
    return float(value)


def wrong_numbers(meta: Mapping[str, Any]) -> Iterator[str]:
    """Faults of a picture's label and weight, one line each."""
    for read in (label_of, weight_of):
        try:
            read(meta)
        except ValueError as error:
            yield str(error)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
