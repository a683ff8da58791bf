"""The pieces of a parsed prompt: weighted texts, and where a chunk ends before it is full."""

from enum import Enum
from typing import Final, Literal, NamedTuple

MAX_WEIGHT = 1e6
MAX_DEPTH = 100


class Fragment(NamedTuple):
    """A stretch of a prompt and how much it counts; 1 is ordinary."""

    text: str
    weight: float = 1.0


class Break(Enum):
    """The end of a chunk, as it stands between the pieces of a prompt."""

    BREAK = "BREAK"


BREAK: Final = Break.BREAK
"""Where a chunk ends before it is full."""

Piece = Fragment | Literal[Break.BREAK]


def clamp(weight: float) -> float:
    """The weight, cut to what a picture can bear."""
    return min(max(weight, -MAX_WEIGHT), MAX_WEIGHT)
