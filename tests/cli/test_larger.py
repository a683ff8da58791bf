"""The options of larger pictures on the command line."""

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from ldm.cli import app
from ldm.generation.from_picture import request_from

QUICK = ["--steps", "2", "--seed", "5", "--quiet"]


def generate(model: Path, *arguments: str | Path):
    return CliRunner().invoke(app, ["generate", "a red apple", *map(str, arguments), "--model", str(model), *QUICK])


def test_two_passes_and_their_repetition(tiny_folder: Path, tmp_path: Path) -> None:
    first, again, plain = (tmp_path / f"{name}.png" for name in ("first", "again", "plain"))
    made = generate(tiny_folder, "--hires", "2", "--hires-strength", "0.5", "--hires-residual", "-o", first)
    assert made.exit_code == 0, made.output
    assert Image.open(first).size == (64, 64)
    request, _ = request_from(first)
    own = {"scale": 2.0, "enlarge": "picture", "strength": 0.5, "steps_scale": False, "residual": True}
    assert request.task == {"name": "hires", **own}
    assert generate(tiny_folder, "--from-image", first, "-o", again).exit_code == 0
    assert again.read_bytes() == first.read_bytes()
    assert generate(tiny_folder, "--from-image", first, "--hires-strength", "0.2", "-o", plain).exit_code == 0
    assert request_from(plain)[0].task == {**request.task, "strength": 0.2}


def test_tiles_and_patterns(tiny_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    options = ["--width", "64", "--tile-size", "32", "--tile-jitter", "--tile", "x", "--vae-memory", "0"]
    assert generate(tiny_folder, *options, "-o", file).exit_code == 0
    request, _ = request_from(file)
    assert (request.tile_size, request.tile_overlap, request.tile_jitter) == (32, 8, True)
    assert (request.seamless, request.vae_memory, request.width) == ("x", 0.0, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hires", "0.5"], "--hires 0.5 is not possible; use 1 to 16"),
        (["--hires", "2", "--hires-strength", "2"], "--hires-strength 2.0 is not possible; use 0 to 1"),
        (["--hires-strength", "0.5"], "--hires-strength is without effect; give --hires 2, too"),
        (["--tile", "z"], "'z'"),
        (["--tile-size", "4"], "--tile-size 4 is not possible; use 8 to 65,536"),
        (["--vae-memory", "-1"], "--vae-memory -1.0 is not possible; use 0 to 1,000,000"),
    ],
)
def test_bad_input_is_one_line(tiny_folder: Path, options: list[str], message: str) -> None:
    result = generate(tiny_folder, *options)
    assert result.exit_code in (1, 2)
    (line,) = result.stderr.strip().splitlines()
    assert message in line
