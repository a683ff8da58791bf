"""Pictures as cameras, scanners and drawing programs write them become the RGB that a person sees; damage is said."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from ldm.data.pictures.decoding import decode_covering, decode_picture, fit, fit_offset, picture_size


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
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>not found</html>", "no picture format that PIL knows"),
        (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:900], "truncated"),
        (encoded(Image.effect_noise((64, 64), 90))[:900], "truncated"),
        (encoded(Image.effect_noise((64, 64), 90), "WEBP")[:900], "."),
        (bomb(), "decompression bomb"),
    ],
)
def test_damage_is_one_line_that_stays_the_same(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as first:
        decode_picture(content)
    with pytest.raises(ValueError, match=reason) as second:
        decode_picture(content)
    assert str(first.value) == str(second.value)
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


def png_of_16_bits(values: np.ndarray) -> bytes:
    """A PNG of uint16 (H, W, 2 | 3 | 4), by the standard: PIL cannot write one."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bit_colours_keep_their_upper_bits(channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, channels)).astype(np.uint16)
    values[0, :4, :] = np.array([0, 255, 32768, 65535])[:, None]
    if channels != 3:
        values[..., -1] = 65535
    found = pixels(png_of_16_bits(values))
    colours = np.broadcast_to(values[..., :1], (5, 7, 3)) if channels == 2 else values[..., :3]
    assert (found == colours >> 8).all() and np.abs(found - colours / 257).max() <= 1


def profile(space: bytes, primaries: str = "rgb", gamma: float = 1.0) -> bytes:
    """An ICC profile (version 2) by the standard: sRGB's primaries, perhaps under other names, and a plain power."""

    def xyz(*numbers: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    bradford = {"r": (0.4360747, 0.2225045, 0.0139322), "g": (0.3850649, 0.7168786, 0.0971045)}
    bradford["b"] = (0.1430804, 0.0606169, 0.7141733)  # Lindbloom's sRGB to XYZ at D50
    tags = {b"wtpt": xyz(0.9642, 1.0, 0.8249)}
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        tags |= {f"{name}XYZ".encode(): xyz(*bradford[of]) for name, of in zip("rgb", primaries, strict=True)}
        tags |= {f"{name}TRC".encode(): curve for name in "rgb"}
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    size = start + len(body)
    header = struct.pack(">I4xI", size, 0x02400000) + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28)
    header += struct.pack(">iii", 63190, 65536, 54061) + bytes(48)
    assert len(header) == 128
    return header + struct.pack(">I", len(tags)) + table + body


def srgb_of(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, from linear light in [0, 1] to levels of 255."""
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


COLOURS = np.random.default_rng(3).integers(0, 256, (6, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(("primaries", "gamma"), [("rgb", 1.0), ("gbr", 1.0), ("rgb", 2.0)])
def test_colours_of_a_profile_become_those_of_srgb(kind: str, primaries: str, gamma: float) -> None:
    content = encoded(Image.fromarray(COLOURS), kind, icc_profile=profile(b"RGB ", primaries, gamma))
    linear = (COLOURS / 255) ** gamma
    wanted = srgb_of(linear[..., [primaries.index(name) for name in "rgb"]])
    assert np.abs(pixels(content) - wanted).max() <= 1.5


@pytest.mark.parametrize("deep", [False, True])
def test_a_profile_of_grey_is_applied_to_grey_alone(deep: bool) -> None:
    levels = ramp() if deep else (ramp() >> 8).astype(np.uint8)
    content = encoded(Image.fromarray(levels), icc_profile=profile(b"GRAY"))
    wanted = srgb_of(np.rint(levels / 257) / 255 if deep else levels / 255)[..., None]
    assert np.abs(pixels(content) - wanted).max() <= 1.5
    coloured = encoded(Image.fromarray(COLOURS), icc_profile=profile(b"GRAY"))
    assert (pixels(coloured) == COLOURS).all()


def test_transparency_and_palettes_have_profiles_too() -> None:
    layer = np.dstack([COLOURS, np.full((6, 8), 255, np.uint8)])
    layer[0, :, 3] = 0
    found = pixels(encoded(Image.fromarray(layer), icc_profile=profile(b"RGB ")))
    assert (found[0] == 255).all() and np.abs(found[1:] - srgb_of(COLOURS[1:] / 255)).max() <= 1.5
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 8, 7, 50, 60, 70])
    found = pixels(encoded(palette, icc_profile=profile(b"RGB ")))
    assert np.abs(found - srgb_of(np.array([50, 60, 70]) / 255)).max() <= 1.5


@pytest.mark.parametrize(
    "unused",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        b"no profile",
        profile(b"RGB ")[:150],
        profile(b"CMYK"),
    ],
    ids=["sRGB", "junk", "cut", "of another space"],
)
def test_profiles_that_change_nothing_or_are_broken_leave_the_pixels_alone(unused: bytes) -> None:
    assert (pixels(encoded(Image.fromarray(COLOURS), icc_profile=unused)) == COLOURS).all()


def photograph(height: int, width: int, **more: object) -> bytes:
    """Smooth shades, sharp edges and grain, as a JPEG."""
    rows, columns = np.mgrid[:height, :width]
    shades = [np.sin(rows / 90 + channel) + np.cos(columns / 70 - channel) for channel in range(3)]
    levels = 128 + 45 * np.stack(shades, -1) + 40 * ((rows // 60 + columns // 80) % 2)[..., None]
    grain = np.random.default_rng(0).normal(0, 6, (height, width, 1))
    return encoded(Image.fromarray((levels + grain).clip(0, 255).astype(np.uint8)), "JPEG", quality=92, **more)


@pytest.mark.parametrize("turned", [False, True])
def test_large_photographs_are_decoded_smaller_and_look_the_same(turned: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    content = photograph(800, 1200, exif=exif)
    stored = (1200, 800) if turned else (800, 1200)
    shape = (150, 80) if turned else (80, 150)
    picture, original = decode_covering(content, *shape)
    assert original == stored and (picture.height, picture.width) == tuple(edge // 4 for edge in stored)
    small, whole = (np.asarray(fit(each, *shape)).astype(int) for each in (picture, decode_picture(content)))
    assert np.abs(small - whole).mean() < 1 and np.abs(small - whole).max() < 16


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_pictures_that_are_not_large_are_decoded_whole(kind: str) -> None:
    content = photograph(255, 400)
    content = content if kind == "JPEG" else encoded(Image.open(io.BytesIO(content)))
    shape = (64, 64) if kind == "JPEG" else (8, 8)
    picture, original = decode_covering(content, *shape)
    assert original == (255, 400) and (np.asarray(picture) == np.asarray(decode_picture(content))).all()
    with pytest.raises(ValueError, match="truncated"):
        decode_covering(photograph(800, 800)[:9000], 16, 16)
