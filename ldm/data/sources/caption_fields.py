"""Reading of captions from a picture's JSON, from a row of a table, or from a text file beside it."""

from collections.abc import Mapping
from typing import Any

CAPTION_FIELDS = ("captions", "caption", "text", "prompt")
TEXT_SUFFIXES = ("txt", "caption")


def captions_of(meta: Mapping[str, Any], text: str | None = None, field: str = "") -> list[str]:
    """The captions of one picture, perhaps none.

    Args:
        meta: what a json or a row says; a caption is a text, several are a list of texts.
        text: a text file beside the picture, one caption a line.
        field: of `meta`, that holds the captions. Without it, `captions` is taken, else `text`, else `caption`,
            `text` or `prompt` of `meta`.
    """
    if field:
        return _texts(meta.get(field))
    if "captions" in meta:
        return _texts(meta["captions"])
    if text is not None:
        return [line.strip() for line in text.splitlines() if line.strip()]
    return next((found for name in CAPTION_FIELDS if (found := _texts(meta.get(name)))), [])


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return value
    return []
