"""The record of what a picture of another tool says of its making."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Value = str | int | float
Fields = Mapping[str, tuple[str, Callable[[Any], Value]]]
"""Another tool's name of a setting -> ours, and how its value is read."""


@dataclass(frozen=True)
class ForeignRecipe:
    """What a picture of another tool says of its making.

    Attributes:
        tool: `A1111 | ComfyUI | InvokeAI | NovelAI`.
        values: what we understand, by the names of `Request`; sampler, schedule and model as the tool names them.
            Sizes and counts are ints, the rest is as it stood. `clip_skip` is negative: counted from the last layer.
        unused: what else it says, by its own names: steps of its making that we cannot repeat from here.
    """

    tool: str
    values: dict[str, Value] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)

    def keep(self, name: str, value: Any, known: Fields) -> None:
        """Put one setting where it belongs; what is unknown or malformed is kept among what is not used."""
        if name in known:
            ours, read = known[name]
            try:
                self.values[ours] = read(value)
                return
            except (TypeError, ValueError, OverflowError):
                pass
        self.unused[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
