"""Encoded pictures as RGB, whatever a camera, a scanner or a drawing program made of them; and cut to a size."""

import io
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsTransform

PICTURE_SUFFIXES = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "avif")
_SIXTEEN_BITS = 65535
_ENOUGH = 2  # pixels in each direction for one that is seen: fewer would show
_MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}  # of colour spaces, as ICC profiles name them
_SAME = 2  # levels of 255: sRGB profiles of different makers differ by so much


def decode_picture(encoded: bytes) -> Image.Image:
    """The encoded picture as upright RGB of 8 bits.

    Turned as its EXIF says; transparency lies on white; 16-bit grey is scaled to 8 bits, and of 16-bit colours the
    upper 8 bits are taken; of an animation the first picture. Colours of an ICC profile other than sRGB become sRGB; a
    profile that cannot be used is passed over.

    Raises:
        ValueError: it is empty, damaged, of no known format, or has more pixels than PIL takes for harmless (about
            179 million). The message says which, and is the same for equal bytes.
    """
    return _decode(encoded, None)[0]


def decode_covering(encoded: bytes, height: int, width: int) -> tuple[Image.Image, tuple[int, int]]:
    """The picture to `fit` into `height` x `width`, as `decode_picture` gives it, and its true height and width.

    A JPEG that is at least four times as large in both directions is decoded at a half, a quarter or an eighth, as
    long as two pixels are left for each one in both directions: less than a level of 255 on average after `fit`.

    Raises:
        ValueError: as `decode_picture`.
    """
    return _decode(encoded, (height, width))


def picture_size(encoded: bytes) -> tuple[int, int]:
    """Height and width of the upright picture, read from its header.

    Raises:
        ValueError: as `decode_picture` does.
    """
    if not encoded:
        raise ValueError("the file is empty")
    try:
        with Image.open(io.BytesIO(encoded)) as file:
            return _upright_size(file)
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

    Args:
        original: height and width before scaling.
        height: of the result.
        width: of the result.
    """
    scale = max(height / original[0], width / original[1])
    return round((scale * original[0] - height) / 2), round((scale * original[1] - width) / 2)


def _decode(encoded: bytes, shape: tuple[int, int] | None) -> tuple[Image.Image, tuple[int, int]]:
    if not encoded:
        raise ValueError("the file is empty")
    try:
        with Image.open(io.BytesIO(encoded)) as file:
            size, profile = _upright_size(file), file.info.get("icc_profile")
            if shape is not None:
                height, width = shape if size == (file.height, file.width) else shape[::-1]
                file.draft(None, (_ENOUGH * width, _ENOUGH * height))  # type: ignore[arg-type]  # only JPEGs heed it
            picture = _in_eight_bits(ImageOps.exif_transpose(file))
            return _on_white(_in_srgb(picture, profile) if profile else picture), size
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make PIL's readers fail in every way there is
        raise ValueError(_reason(error)) from error


def _upright_size(file: Image.Image) -> tuple[int, int]:
    """Height and width after turning."""
    turned = file.getexif().get(0x0112, 1) >= 5  # the orientations that swap rows and columns
    return (file.width, file.height) if turned else (file.height, file.width)


def _in_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """A picture of 8 bits with its colours as sRGB has them; as it is where the profile is none for it."""
    mode = _MODES.get(profile[16:20])
    grey = picture.mode in ("1", "L", "LA")
    if mode is None or (mode == "CMYK") != (picture.mode == "CMYK") or (mode == "L" and not grey):
        return picture
    transform = _to_srgb(profile, mode)
    if transform is None:
        return picture
    coloured = transform.apply(picture.convert(mode))
    if picture.has_transparency_data:
        coloured.putalpha(picture.convert("RGBA").getchannel("A"))
    return coloured


@lru_cache(maxsize=32)
def _to_srgb(profile: bytes, mode: str) -> "ImageCmsTransform | None":
    """From a profile's colours to those of sRGB; None if they are the same, or the profile is broken."""
    from PIL import ImageCms

    try:
        known = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        exactly = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE  # its shortcut is off by 8 levels
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(known, srgb, mode, "RGB", flags=exactly)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if mode != "CMYK":
        levels = np.arange(0, 256, 17, dtype=np.uint8)
        colours = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(16, 256, 3)).convert(mode)
        before, after = (np.asarray(each.convert("RGB"), np.int16) for each in (colours, transform.apply(colours)))
        if np.abs(after - before).max() <= _SAME:
            return None
    return transform


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
