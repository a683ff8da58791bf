"""Texts inside a PNG: A1111's `parameters` for other tools, and JSON of our own under `ldm`."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def read_texts(path: Path) -> dict[str, str]:
    """All text chunks of a PNG, by keyword. Raises FileNotFoundError or ValueError (not a picture), naming the file."""
    from PIL import Image, UnidentifiedImageError

    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with Image.open(path) as image:
            image.load()  # text may stand behind the pixels
            texts: dict[str, Any] = getattr(image, "text", {})
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not a picture; give a PNG that ldm has written") from None
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read ({error}); is it whole?") from None
    return {str(key): str(value) for key, value in texts.items()}
