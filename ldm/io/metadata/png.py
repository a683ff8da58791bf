"""Texts inside a PNG: A1111's `parameters` for other tools, and JSON of our own under `ldm`."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


def png_bytes(image: "Image", parameters: str | None = None, recipe: str | None = None) -> bytes:
    """The picture as PNG. The same pixels and texts give the same bytes: no time is written.

    Args:
        image: the picture.
        parameters: how it was made, in A1111's words.
        recipe: the same as JSON, whole.
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if parameters is not None:
        # PNG's tEXt holds Latin-1 only; iTXt, which Pillow picks for us where needed, holds all of Unicode.
        info.add_text("parameters", parameters)
    if recipe is not None:
        info.add_itxt("ldm", recipe)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()
