"""What the entries of options that may be repeated say: NAME=VALUE, FILE=WEIGHT, FILE."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def named_values(option: str, entries: Sequence[str]) -> dict[str, Any]:
    """`["eta=0.5", "solver_type=heun"]` -> {"eta": 0.5, "solver_type": "heun"}; values are JSON, else words.

    Raises:
        ValueError: an entry without `=`.
    """
    values = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not equals or not name:
            raise ValueError(f"{option} {entry} has no value; write NAME=VALUE")
        values[name.strip()] = _value(text.strip())
    return values


def weighted_files(option: str, entries: Sequence[str]) -> dict[str, float]:
    """`["ink.safetensors=0.8"]` -> {"ink.safetensors": 0.8}; without a number it is 1.

    Raises:
        ValueError: a weight that is no number.
    """
    files = {}
    for entry in entries:
        path, equals, text = entry.rpartition("=")
        try:
            files[path if equals else entry] = float(text) if equals else 1.0
        except ValueError:
            raise ValueError(f"{option} {entry}: {text!r} is no weight; write FILE or FILE=0.8") from None
    return files


def files_by_stem(option: str, entries: Sequence[str]) -> dict[str, str]:
    """`["words/spark.safetensors"]` -> {"words/spark.safetensors": "spark"}."""
    return {entry: Path(entry).stem for entry in entries}


def _value(text: str) -> Any:
    try:
        return float(text) if text.lower() in ("inf", "-inf") else json.loads(text)
    except (ValueError, RecursionError):  # no JSON, a number beyond what Python reads, or nested beyond sense
        return text
