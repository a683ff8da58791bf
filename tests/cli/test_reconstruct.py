"""`ldm reconstruct` and `ldm model calibrate`: files, recipes, and bad input in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from task_models import picture
from typer.testing import CliRunner

from ldm.cli import app

STEPS = ("--steps", "2", "--seed", "5")


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture(20, 30)).save("in.png")
    mask = np.zeros((20, 30), np.uint8)
    mask[4:12, 8:20] = 255
    Image.fromarray(mask).save("mask.png")


def ldm(*arguments: object):
    return CliRunner().invoke(app, [str(each) for each in arguments])


def read(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_samples_their_mean_and_their_deviation_are_written(tiny_folder: Path) -> None:
    own = ("--operator", "blur=1,area-down=2", "--noise-level", "20", "--model", tiny_folder)
    result = ldm("reconstruct", "in.png", "apple", *own, "--samples", "3", *STEPS, "-o", "out.png", "--json")
    assert result.exit_code == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert lines[-2:] == [{"mean": "out.mean.png"}, {"deviation": "out.deviation.png"}]
    samples = np.stack([read(f"out-{seed}.png") for seed in (5, 6, 7)]).astype(float)
    assert samples.shape == (3, 40, 60, 3)
    assert np.abs(read("out.mean.png") - samples.mean(0)).max() <= 0.5
    expected = np.sqrt((samples.std(0) ** 2).mean(-1)) * 4
    assert np.abs(read("out.deviation.png") - expected.clip(0, 255)).max() <= 0.5 and expected.max() > 1
    recipe = json.loads(Image.open("out-6.png").info["ldm"])
    assert recipe["task"]["operator"] == "blur=1,area-down=2" and recipe["task"]["name"] == "reconstruct"
    again = ldm("reconstruct", "--from-image", "out-6.png", "-o", "again.png", "-q")
    assert again.exit_code == 0 and np.abs(read("again.png").astype(int) - read("out-6.png")).max() <= 1
    folder = ldm("reconstruct", "in.png", *own, "--samples", "2", *STEPS, "-o", "folder", "-q")
    assert folder.exit_code == 0, folder.stderr
    assert {path.name for path in Path("folder").iterdir()} == {
        f"in-5{end}.png" for end in ("", "-grid", ".mean", ".deviation")
    } | {"in-6.png"}


def test_a_mask_keeps_bytes_and_is_in_the_recipe(tiny_folder: Path) -> None:
    result = ldm("reconstruct", "in.png", "--mask", "mask.png", *STEPS, "--model", tiny_folder, "-o", "out.png", "-q")
    assert result.exit_code == 0, result.stderr
    known = read("mask.png") == 0
    assert np.array_equal(read("out.png")[known], read("in.png")[known]) and not Path("out.mean.png").exists()
    Image.fromarray(picture(20, 30)[..., 0]).save("mask.png")
    again = ldm("reconstruct", "--from-image", "out.png", "-o", "again.png")
    assert again.exit_code == 1 and "mask.png is not the picture of this recipe any more" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--operator", "blurr=2"), "unknown operator 'blurr'; did you mean 'blur'?"),
        (("--operator", "mask=mask.png"), "a mask is an option of its own; give --mask MASK.png"),
        (("--operator", "area-down=99"), "area-down=99 is out of range; use a whole factor from 1 to 16"),
        (("--noise-level", "300"), "--noise-level 300.0 is not possible; use 0 to 255"),
        (("--method", "dap"), "unknown --method 'dap'; did you mean 'daps' or 'dps'?"),
        (("--samples", "0"), "--samples 0 is not possible; use 1 to 100"),
        (("--mask", "small.png"), "the mask has 5 x 4 pixels and the picture 30 x 20"),
        (("--mask", "white.png"), "the mask is white all over, so nothing of the picture is known; use ldm generate"),
        (("--mask", "none.png"), "none.png"),
    ],
)
def test_bad_input_is_one_line(tiny_folder: Path, arguments: tuple[str, ...], line: str) -> None:
    Image.new("L", (5, 4)).save("small.png")
    Image.new("L", (30, 20), 255).save("white.png")
    result = ldm("reconstruct", "in.png", *arguments, *STEPS, "--model", tiny_folder, "-o", "out.png")
    said = result.stderr.strip().splitlines()
    assert result.exit_code in (1, 2) and len(said) == 1 and line in said[0], result.output
    assert not Path("out.png").exists()


def test_calibrate_writes_a_table_that_reconstruct_follows(tiny_folder: Path) -> None:
    shutil.copytree(tiny_folder, "model")
    Path("data").mkdir()
    Image.fromarray(picture(40, 40)).save("data/one.png")
    own = ("reconstruct", "in.png", "--noise-level", "40", *STEPS, "--model", "model", "-q")
    assert ldm(*own, "-o", "before.png").exit_code == 0
    result = ldm("model", "calibrate", "model", "--data", "data", "-n", "1")
    assert result.exit_code == 0, result.stderr
    content = json.loads(Path("model/denoising_errors.json").read_text())
    assert content["pictures"] == 1 and len(content["errors"]) == 32 and "denoising_errors.json" in result.stdout
    assert ldm(*own, "-o", "after.png").exit_code == 0
    assert not np.array_equal(read("before.png"), read("after.png"))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("model", "--data", "empty"), "empty"),
        (("in.png", "--data", "."), "in.png is a single file, which cannot hold a table"),
        (("model", "--data", ".", "-n", "0"), "n=0 must be at least 1"),
    ],
)
def test_what_cannot_be_calibrated_is_one_line(tiny_folder: Path, arguments: tuple[str, ...], line: str) -> None:
    shutil.copytree(tiny_folder, "model")
    Path("empty").mkdir()
    result = ldm("model", "calibrate", *arguments)
    assert result.exit_code in (1, 2) and line in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not Path("model/denoising_errors.json").exists()
