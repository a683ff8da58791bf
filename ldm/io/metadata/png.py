"""Texts inside a PNG: A1111's `parameters` for other tools, and JSON of our own under `ldm`."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ldm.naming import one_line

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


@contextmanager
def open_picture(path: Path) -> Iterator["Image"]:
    """A picture file, read whole: text may stand behind the pixels. Its warnings are nobody's here.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture, is damaged, or is too large for one; names the file.
    """
    from PIL import Image, UnidentifiedImageError

    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if not path.is_file():
        raise ValueError(f"{path} is not a picture file")
    try:
        with warnings.catch_warnings(action="ignore"):
            image = Image.open(path)
            try:
                image.load()
            except BaseException:
                image.close()
                raise
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not a picture; give a PNG, or another file that Pillow reads") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ValueError(f"{path} has more than {limit:,} pixels, too many for a picture; make it smaller") from None
    except MemoryError:
        raise
    except Exception as error:  # each format has errors of its own
        raise ValueError(f"{path} cannot be read ({one_line(str(error), 200)}); is it whole?") from None
    with image:
        yield image
