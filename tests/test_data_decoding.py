"""Pictures as cameras, scanners and drawing programs write them become the RGB that a person sees; damage is said."""

import io

import numpy as np
import pytest
from PIL import Image

from ldm.data.decoding import decode_picture, fit, fit_offset, picture_size


def encoded(picture: Image.Image, kind: str = "PNG", **more: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **more)
    return file.getvalue()


def pixels(content: bytes) -> np.ndarray:
    picture = decode_picture(content)
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


def ramp() -> np.ndarray:
    return np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled(kind: str) -> None:
    wanted = np.rint(ramp() / 257).astype(int)
    found = pixels(encoded(Image.fromarray(ramp()), kind))
    assert all((found[..., channel] == wanted).all() for channel in range(3))
    assert wanted.max() == 255 and len(np.unique(wanted)) > 60


def test_32_bit_grey_is_scaled_or_refused() -> None:
    unit = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert (pixels(encoded(Image.fromarray(unit), "TIFF"))[..., 0] == np.rint(unit * 255)).all()
    with pytest.raises(ValueError, match="its grey values go from 0 to 9, not from 0 to 1"):
        decode_picture(encoded(Image.fromarray(unit * 9), "TIFF"))


def test_alpha_lies_on_white() -> None:
    layer = np.zeros((2, 3, 4), np.uint8)
    layer[..., 0], layer[:, 1, 3], layer[:, 2, 3] = 200, 51, 255
    found = pixels(encoded(Image.fromarray(layer)))
    wanted = [[255, 255, 255], [255 - 0.2 * 55, 255 * 0.8, 255 * 0.8], [200, 0, 0]]
    assert np.abs(found[0] - np.array(wanted)).max() <= 1


def test_grey_with_alpha_and_see_through_palettes_lie_on_white() -> None:
    assert (pixels(encoded(Image.new("LA", (4, 4), (0, 0)))) == 255).all()
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 8, 7, 50, 60, 70])
    assert (pixels(encoded(palette)) == [50, 60, 70]).all()
    assert (pixels(encoded(palette, transparency=1)) == 255).all()
    assert (pixels(encoded(palette, "GIF")) == [50, 60, 70]).all()
    assert (pixels(encoded(Image.new("RGB", (4, 4), (1, 2, 3)), transparency=(1, 2, 3))) == 255).all()


def test_cmyk_is_converted() -> None:
    found = pixels(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    assert np.abs(found - [255, 0, 0]).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_the_camera_was(orientation: int) -> None:
    """The oracle: what each orientation does to rows and columns, by the EXIF standard."""
    upright = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    assert (pixels(content) == upright).all()
    assert picture_size(content) == (4, 6)


def bomb() -> bytes:
    """A PNG that says it has 40,000 x 40,000 pixels."""
    content = bytearray(encoded(Image.new("L", (1, 1))))
    content[16:24] = (40_000).to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>not found</html>", "no picture format that PIL knows"),
        (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:900], "truncated"),
        (encoded(Image.effect_noise((64, 64), 90))[:900], "truncated"),
        (encoded(Image.effect_noise((64, 64), 90), "WEBP")[:900], ""),
        (bomb(), "decompression bomb"),
    ],
)
def test_damage_is_one_line_that_stays_the_same(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError) as first:
        decode_picture(content)
    with pytest.raises(ValueError) as second:
        decode_picture(content)
    assert reason in str(first.value) and str(first.value) == str(second.value)
    assert str(first.value) and "\n" not in str(first.value) and " at 0x" not in str(first.value)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 12), (12, 6)])
def test_fit_covers_and_cuts_the_middle(height: int, width: int) -> None:
    """A picture of two flat thirds around a middle: the cut keeps the middle in the middle."""
    wide = np.zeros((24, 72, 3), np.uint8)
    wide[:, 24:48] = 255
    found = np.asarray(fit(Image.fromarray(wide), height, width)).astype(int)
    assert found.shape == (height, width, 3)
    assert (found == found[:, ::-1]).all() and (found == found[::-1]).all()
    tall = np.asarray(fit(Image.fromarray(wide.transpose(1, 0, 2)), width, height)).astype(int)
    assert (tall == found.transpose(1, 0, 2)).all()


def test_fit_averages_blocks_and_says_what_it_cut() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    found = np.asarray(fit(Image.fromarray(picture), 4, 4)).astype(float)
    middle = picture[:, 4:12].astype(float).reshape(4, 2, 4, 2, 3).mean((1, 3))
    assert np.abs(found - middle).max() <= 1
    assert fit_offset((8, 16), 4, 4) == (0, 2)
    assert fit_offset((16, 8), 4, 4) == (2, 0)
