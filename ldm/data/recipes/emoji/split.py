"""The held-out split of the emoji data set: decided by sha256 of names, so it depends neither on order nor on seed."""

import hashlib

CELL_SHARE = 0.02
SCENE_SHARE = 0.10
LEAST_STYLES = 4
_SAME_DRAWING = {"flat": "fluent", "3d": "fluent"}


def cell_is_held_out(family: str, style: str, styles_of_family: int) -> bool:
    """Whether a (concept, style) cell is held out.

    Args:
        family: the concept's name without gender words, so that siblings and skin tones go together.
        style: style key; "flat" and "3d" draw the same design and go together.
        styles_of_family: a cell is only held out if its concept is drawn in at least four styles.
    """
    if styles_of_family < LEAST_STYLES:
        return False
    return _share("cell", family, _SAME_DRAWING.get(style, style)) < CELL_SHARE


def scene_is_held_out(kind: str, *parts: str) -> bool:
    """Whether a composed scene's (object, count), (object, background) or (left, right) pair is held out."""
    return _share(kind, *parts) < SCENE_SHARE


def _share(*names: str) -> float:
    digest = hashlib.sha256("\0".join(names).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
