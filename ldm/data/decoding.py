"""Encoded pictures as RGB, whatever a camera, a scanner or a drawing program made of them; and cut to a size."""

import io

import numpy as np
from PIL import Image, ImageOps

PICTURE_SUFFIXES = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "avif")
_SIXTEEN_BITS = 65535


def decode_picture(encoded: bytes) -> Image.Image:
    """The encoded picture as upright RGB of 8 bits.

    Turned as its EXIF says; transparency lies on white; 16-bit grey is scaled to 8 bits; of an animation the first
    picture. Colour profiles are not applied.

    Raises:
        ValueError: it is empty, damaged, of no known format, or has more pixels than PIL takes for harmless (about
            179 million). The message says which, and is the same for equal bytes.
    """
    if not encoded:
        raise ValueError("the file is empty")
    try:
        with Image.open(io.BytesIO(encoded)) as file:
            return _on_white(_in_eight_bits(ImageOps.exif_transpose(file)))
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make PIL's readers fail in every way there is
        raise ValueError(_reason(error)) from error


def picture_size(encoded: bytes) -> tuple[int, int]:
    """Height and width of the upright picture, read from its header. Raises ValueError as `decode_picture` does."""
    if not encoded:
        raise ValueError("the file is empty")
    try:
        with Image.open(io.BytesIO(encoded)) as file:
            turned = file.getexif().get(0x0112, 1) >= 5  # the orientations that swap rows and columns
            return (file.width, file.height) if turned else (file.height, file.width)
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(_reason(error)) from error


def fit(picture: Image.Image, height: int, width: int) -> Image.Image:
    """The picture scaled until it just covers `height` x `width`, and its middle part of that size.

    Averaged where it shrinks by a whole factor, else Lanczos.
    """
    if picture.size == (width, height):
        return picture
    box_height, box_width = float(picture.height), float(picture.width)
    if height * picture.width >= width * picture.height:  # too wide
        box_width = width * picture.height / height
    else:
        box_height = height * picture.width / width
    left, top = (picture.width - box_width) / 2, (picture.height - box_height) / 2
    box = left, top, min(left + box_width, picture.width), min(top + box_height, picture.height)
    whole = all(float(number).is_integer() for number in (box_height / height, *box))
    return picture.resize((width, height), Image.Resampling.BOX if whole else Image.Resampling.LANCZOS, box)


def fit_offset(original: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Rows and columns that `fit` cuts off at the top and the left of the scaled picture, in its pixels, rounded.

    original: height and width before scaling.
    """
    scale = max(height / original[0], width / original[1])
    return round((scale * original[0] - height) / 2), round((scale * original[1] - width) / 2)


def _in_eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, which PIL would clip at 255, scaled to 8; all else as it is."""
    if picture.mode not in ("I", "F") and not picture.mode.startswith("I;16"):
        return picture
    values = np.asarray(picture, dtype=np.float64)
    most = 1 if picture.mode == "F" else _SIXTEEN_BITS
    if values.size and (values.min() < 0 or values.max() > most):
        raise ValueError(f"its grey values go from {values.min():g} to {values.max():g}, not from 0 to {most}")
    return Image.fromarray(np.rint(values * (255 / most)).astype(np.uint8))


def _on_white(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    ground = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(ground, layer).convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):  # its own message has an address in memory
        return "no picture format that PIL knows"
    return str(error) or type(error).__name__
