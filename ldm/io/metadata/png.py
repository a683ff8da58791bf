"""Texts inside a PNG: A1111's `parameters` for other tools, and JSON of our own under `ldm`."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.PngImagePlugin import PngInfo


def png_info(parameters: str | None = None, recipe: str | None = None) -> "PngInfo":
    """The texts of a PNG, as Pillow's `save(pnginfo=...)` takes them.

    Args:
        parameters: how the picture was made, in A1111's words.
        recipe: the same as JSON, whole.
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if parameters is not None:
        # PNG's tEXt holds Latin-1 only; iTXt, which Pillow picks for us where needed, holds all of Unicode.
        info.add_text("parameters", parameters)
    if recipe is not None:
        info.add_itxt("ldm", recipe)
    return info


def png_bytes(image: "Image", parameters: str | None = None, recipe: str | None = None) -> bytes:
    """The picture as PNG. The same pixels and texts give the same bytes: no time is written.

    Args:
        image: the picture.
        parameters: how it was made, see `png_info`.
        recipe: likewise.
    """
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=png_info(parameters, recipe))
    return buffer.getvalue()
