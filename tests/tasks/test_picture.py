"""Pictures that are put in: all forms and modes, and back without a byte's change."""

import hashlib
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.tasks.composing import frame, unframe
from ldm.tasks.picture import Picture, mask_of

MODES = ("L", "LA", "RGB", "RGBA", "I;16")


def noise(mode: str, height: int, width: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "I;16": 1}[mode]
    most, kind = (65535, np.uint16) if mode == "I;16" else (255, np.uint8)
    return random.integers(0, most, (height, width, channels), kind, endpoint=True)


def saved(pixels: np.ndarray, path: Path) -> Path:
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path)
    return path


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (2, 7), (33, 64), (97, 51), (300, 299)], ids=str)
def test_a_framed_picture_comes_back_to_the_byte(mode: str, size: tuple[int, int], tmp_path: Path) -> None:
    pixels = noise(mode, *size)
    picture = Picture.of(saved(pixels, tmp_path / "x.png"))
    assert picture.mode == mode and picture.size == size
    for multiple in (8, 64):
        inside = frame(picture.rgb, multiple)
        assert inside.shape[1] % multiple == 0 and inside.shape[2] % multiple == 0
        assert np.array_equal(picture.with_rgb(unframe(inside, size)), pixels)
    assert picture.image().mode == mode and np.array_equal(
        np.asarray(picture.image()), pixels.squeeze(2) if pixels.shape[2] == 1 else pixels
    )


def test_all_sizes_can_be_framed() -> None:
    for size in range(1, 301):
        x = torch.arange(float(size)).view(1, 1, size)
        framed = frame(x, 64)
        assert framed.shape[2] - size < 64 and torch.equal(unframe(framed, (1, size)), x)
        assert (framed[0, 0].diff().abs() <= 1).all()  # a mirror image has no jump


def test_it_is_named_by_the_bytes_of_its_file(tmp_path: Path) -> None:
    path = saved(noise("RGB", 4, 5), tmp_path / "x.png")
    assert Picture.of(str(path)).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert Picture.of(path).path == str(path)
    one, same, other = (Picture.of(noise("RGB", 4, 5, seed)) for seed in (0, 0, 1))
    assert one.sha256 == same.sha256 != other.sha256 and one.path == ""


def test_the_rotation_of_exif_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(noise("RGB", 4, 6))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    image.save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(
        Picture.of(tmp_path / "x.png").pixels, np.asarray(image.transpose(Image.Transpose.ROTATE_270))
    )


@pytest.mark.parametrize(("mode", "kept"), [("P", "RGB"), ("CMYK", "RGB"), ("1", "L"), ("YCbCr", "RGB"), ("F", "I;16")])
def test_other_modes_are_converted_and_changed_colours_are_said(mode: str, kept: str, caplog) -> None:
    image = Image.fromarray(noise("RGB", 5, 4)).convert("L" if mode == "F" else "RGB").convert(mode)
    with caplog.at_level(logging.WARNING):
        picture = Picture.of(image)
    said = [record.getMessage() for record in caplog.records]
    assert picture.mode == kept and said == [f"the picture is {mode} and is read as {kept}"] * (mode not in ("P", "1"))
    if mode != "F":
        assert np.array_equal(picture.pixels.squeeze(), np.asarray(image.convert(kept)))


def test_transparent_colours_are_seen_on_white_and_kept() -> None:
    pixels = np.array([[[10, 20, 30, 0], [10, 20, 30, 255]]], np.uint8)
    picture = Picture.of(pixels)
    assert torch.equal(picture.rgb[:, 0, 0], torch.ones(3))
    changed = picture.with_rgb(torch.zeros(3, 1, 2))
    assert changed[0, 0].tolist() == [10, 20, 30, 0] and changed[0, 1].tolist() == [0, 0, 0, 255]


def test_arrays_and_tensors_are_pictures_too() -> None:
    pixels = noise("RGB", 4, 6)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    for given in (
        pixels,
        Image.fromarray(pixels),
        tensor.float() / 255,
        tensor[None].float() / 255,
        tensor,
        pixels / 255,
    ):
        assert np.array_equal(Picture.of(given).pixels, pixels)
    grey = noise("L", 4, 6)
    for given in (grey, grey[..., 0], torch.from_numpy(grey[..., 0])[None]):
        assert np.array_equal(Picture.of(given).pixels, grey)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((4, 4, 5), np.uint8), "(4, 4, 5) is no picture"),
        (np.full((4, 4), 2.0), "values from 2 to 2; use 0 to 1"),
        (np.full((4, 4), np.nan), "values from nan"),
        (np.zeros((4, 4), np.int32), "int32 is no picture"),
        (torch.zeros(2, 3, 4, 4), "(2, 3, 4, 4) is no picture"),
        (7, "int is no picture; give a path"),
        (np.zeros((0, 4), np.uint8), "is no picture"),
    ],
)
def test_what_is_no_picture_is_said_in_a_line(given, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        Picture.of(given)
    assert "\n" not in str(error.value)


def test_files_that_are_no_pictures_and_pictures_that_are_too_large(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png does not exist"):
        Picture.of(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("words")
    with pytest.raises(ValueError, match=r"text\.png is not a picture"):
        Picture.of(tmp_path / "text.png")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match=r"large\.png has more than [\d,]+ pixels, too many"):
        Picture.of(tmp_path / "large.png")


def test_a_resized_picture_keeps_its_flat_colours() -> None:
    pixels = np.zeros((40, 30, 4), np.uint8)
    pixels[:, :15] = (200, 100, 50, 255)
    small = Picture.of(pixels).resized(20, 15)
    assert small.size == (20, 15) and small.mode == "RGBA"
    shows = small.pixels[..., 3] > 8  # what was transparent black darkens nothing
    assert np.abs(small.pixels[shows][:, :3].astype(int) - (200, 100, 50)).max() <= 6


def test_masks_are_white_where_they_count() -> None:
    assert mask_of(np.array([[0, 255]], np.uint8)).tolist() == [[0, 1]]
    assert mask_of(torch.tensor([[0.0, 1.0]])).tolist() == [[0, 1]]
    assert mask_of(np.array([[[255, 255, 255, 0], [255, 255, 255, 255]]], np.uint8)).tolist() == [[0, 1]]
