"""Every setting of every stage is named by a test; one that nobody tested is deleted."""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from checkout import ROOT

from ldm.training.stages.table import STAGES


def _settings(kind: type[Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Dotted name and own name of each field of a dataclass and of the dataclasses in it."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        yield f"{prefix}.{field.name}", field.name
        for inner in (hints[field.name], *get_args(hints[field.name])):
            if is_dataclass(inner):
                yield from _settings(inner, f"{prefix}.{field.name}")  # type: ignore[arg-type]


def test_every_setting_is_named_in_a_test() -> None:
    files = [path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    words = {word for path in files for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}
    settings = {pair for task, kind in STAGES.items() for pair in _settings(kind, task)}
    assert len(settings) > 200
    assert not sorted(dotted for dotted, name in settings if name not in words)
