"""`ldm degrade`: the order of its options, modes, what is recorded, and bad input in one line each."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ldm.cli import app
from ldm.degradation.degrade import Degrade


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ldm(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def complaint(result) -> str:
    """The one line that a failed command says."""
    assert result.exit_code in (1, 2), result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def write(name: str, mode: str = "RGB", width: int = 16, height: int = 16) -> np.ndarray:
    random = np.random.default_rng(0)
    if mode == "I;16":
        pixels = random.integers(0, 65536, (height, width), dtype=np.uint16)
    else:
        pixels = random.integers(0, 256, (height, width, len(mode)), dtype=np.uint8).squeeze(2 if mode == "L" else ())
    Image.fromarray(pixels).save(name)
    return pixels


def done(name: str) -> list[str]:
    with Image.open(name) as image:
        return json.loads(image.info["degradation"])["operations"]


def test_options_are_applied_in_their_order():
    write("a.png")
    assert ldm("degrade", "a.png", "--noise", "gaussian=25", "--blur", "2", "--clip", "--noise", "speckle=.1",
               "--down=4", "--jpeg", "30", "-o", "b.png").exit_code == 0  # fmt: skip
    assert done("b.png") == ["gaussian=25", "blur=2", "clip", "speckle=0.1", "down=4", "jpeg=30"]
    assert Image.open("b.png").size == (4, 4)


def test_bytes_do_not_depend_on_other_pictures_and_the_record_repeats_them():
    pixels = write("a.png")
    write("b.png", "L")
    for names, folder in ((["a.png"], "one"), (["b.png", "a.png"], "two"), (["*.png"], "three")):
        assert ldm("degrade", *names, "--noise", "poisson=30", "--seed", "5", "-o", f"{folder}/").exit_code == 0
    first = Path("one/a-degraded.png").read_bytes()
    assert first == Path("two/a-degraded.png").read_bytes() == Path("three/a-degraded.png").read_bytes()
    record = json.loads(Image.open("one/a-degraded.png").info["degradation"])
    key = int(record["source_sha256"][:12], 16)
    repeated = Degrade.from_record(record)(torch.from_numpy(pixels).permute(2, 0, 1) / 255, key)
    expected = (repeated.clamp(0, 1) * 255).round().permute(1, 2, 0).byte().numpy()
    np.testing.assert_array_equal(np.array(Image.open("one/a-degraded.png")), expected)
    assert "poisson=30" in ldm("inspect", "one/a-degraded.png").stdout


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_modes_and_alpha_stay(mode: str):
    pixels = write("a.png", mode)
    assert ldm("degrade", "a.png", "--noise", "gaussian=25", "-o", "b.png").exit_code == 0
    with Image.open("b.png") as image:
        assert image.mode == mode
        if "A" in mode:
            np.testing.assert_array_equal(np.array(image)[..., -1], pixels[..., -1])
        if mode == "I;16":  # the steps of 16 bits are kept
            assert (np.array(image) % 257 != 0).mean() > 0.5


def test_one_pixel_is_a_picture():
    write("a.png", width=1, height=1)
    assert ldm("degrade", "a.png", "--blur", "2", "--noise", "salt-and-pepper=50%", "-o", "b.png").exit_code == 0
    assert Image.open("b.png").size == (1, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--noise", "gaussian=999"], "gaussian=999 is out of range; use a standard deviation from 0 to 255"),
        (["--noise", "gausian=5"], "unknown kind of --noise 'gausian'; did you mean 'gaussian'?"),
        (["--noise", "blur=5"], "unknown kind of --noise 'blur'; known: gaussian, poisson, salt_and_pepper, speckle"),
        (["--noise", "gaussian"], "gaussian= is no number; write it as gaussian=25"),
        (["--jpeg", "101"], "jpeg=101 is out of range; use a whole quality from 1 to 100"),
        ([], "nothing to do; give --noise gaussian=25, --blur 2, --down 4, --up 2 or --jpeg 30"),
        (
            ["--down", "5"],
            "down=5 does not fit a picture of 16 x 16 px, whose sides are no multiples of 5; "
            "crop it, or use down=5:bicubic",
        ),
    ],
)
def test_bad_input_is_one_line(options: list[str], words: str):
    write("a.png")
    assert complaint(ldm("degrade", "a.png", *options, "-o", "b.png")) == f"ldm: {words}"
    assert not Path("b.png").exists()


def test_files_that_are_no_pictures_are_one_line():
    Path("text.png").write_text("no picture")
    Path("empty").mkdir()
    assert "text.png is not a picture" in complaint(ldm("degrade", "text.png", "--blur", "2"))
    assert "empty holds no pictures" in complaint(ldm("degrade", "empty", "--blur", "2"))
    assert "nothing.png does not exist" in complaint(ldm("degrade", "nothing.png", "--blur", "2"))
