"""The expected contents of a picture, from its JSON, and where in the picture to look for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PLAIN_BACKGROUND = "white"
Place = tuple[int, int] | None
WHOLE: Place = None
_GRID = tuple((row, column) for row in range(3) for column in range(3))
# Where the judge looks, by the arrangement of the things: places, each with the number of the thing that is there (None
# for all of them). The whole comes first. A place (row, column) is a window of half the picture's height and width;
# three rows and three columns of them overlap by half.
VIEWS: dict[str, tuple[tuple[Place, int | None], ...]] = {
    "one": ((WHOLE, 0),),
    "several": ((WHOLE, 0), *((place, 0) for place in _GRID)),
    "beside": ((WHOLE, None), ((1, 0), 0), ((1, 2), 1)),
    "above": ((WHOLE, None), ((0, 1), 0), ((2, 1), 1)),
}


@dataclass(frozen=True)
class Expected:
    """The expected contents of a picture.

    Attributes:
        concepts: one, or two for a pair: left and right, or upper and lower.
        style: None where it was not said.
        count: how many; None where there is but one thing to see.
        background: its colour; None where the prompt names none.
        arrangement: one of `VIEWS`.
    """

    concepts: tuple[str, ...]
    style: str | None = None
    count: str | None = None
    background: str | None = None
    arrangement: str = "one"

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> "Expected":
        """The contents of the picture with this JSON."""
        names = known_labels(meta)
        background = names["background"][0]
        counted = meta.get("kind") == "count"
        arrangement = "several" if counted and meta["count"] > 1 else "one"
        if len(names["concept"]) == 2:
            arrangement = "above" if meta.get("kind") == "above" else "beside"
        return cls(
            concepts=names["concept"],
            style=meta.get("style"),
            count=str(meta["count"]) if counted else None,
            background=background if background != PLAIN_BACKGROUND else None,
            arrangement=arrangement,
        )


def known_labels(meta: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The classes of a picture by head, from its JSON: a pair has two concepts, and a lone icon has no count."""
    scene = "objects" in meta
    return {
        "concept": tuple(dict.fromkeys(meta["objects"])) if scene else (meta["concept"],),
        "style": (meta["style"],) if "style" in meta else (),
        "count": (str(meta["count"]),) if scene else (),
        "background": (meta.get("background", PLAIN_BACKGROUND),),
    }
