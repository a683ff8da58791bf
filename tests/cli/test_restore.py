"""`ldm denoise`, `ldm restore` and `ldm upscale` by a restorer: files in, files out, bad input in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from restorers import finding, random_network
from typer.testing import CliRunner

from ldm import Restorer
from ldm.cli import app
from ldm.io import locate, shipped
from ldm.io.folder.restorer import save_restorer


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    save_restorer(finding(random_network(), gaussian=24.0), Path("model"))
    write("a.png")


def write(name: str, shape: tuple[int, ...] = (10, 14, 3), dtype: Any = np.uint8) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)
    Image.fromarray(values).save(name)
    return values


def ship_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tiny restorer be the one that comes with the package."""
    for module in (locate, shipped):
        monkeypatch.setattr(module, "shipped_restorers", lambda: {"restorer": Path("model")})


def ldm(*arguments: Any):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def complaint(result: Any, code: int = 2) -> str:
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == code and len(lines) == 1 and result.stdout == "", result.output
    return lines[0]


def test_what_was_found_and_stated_is_said_and_written():
    result = ldm("denoise", "a.png", "--model", "model", "--noise", "poisson=30", "-o", "b.png")
    assert result.stdout == "b.png  poisson noise 30 was named; found gaussian noise 24\n", result.output
    shown = json.loads(ldm("inspect", "b.png", "--json").stdout)
    assert (shown["tool"], shown["stated"]) == ("ldm denoise", {"poisson": 30.0})
    assert ldm("denoise", "a.png", "--model", "model", "-q").stdout == ""
    assert Path("outputs/a-denoised.png").is_file()


def test_damage_that_is_named_and_not_there_is_said_and_changes_nothing():
    result = ldm("restore", "a.png", "--model", "model", "--damage", "jpeg,blur", "-o", "b.png")
    assert result.stdout == "b.png  found gaussian noise 24; nothing was changed\n", result.output
    assert np.array_equal(np.array(Image.open("b.png")), np.array(Image.open("a.png")))


def test_json_has_one_object_a_picture():
    write("c.png")
    result = ldm("restore", "*.png", "--model", "model", "--json", "--careful", "-o", "out/")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["input"] for line in lines] == ["a.png", "c.png"] and result.stderr == ""
    assert all(line["careful"] and line["changed"] and "gaussian" in line["found"] for line in lines)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 1, 3), np.uint8), ((9, 7), np.uint16), ((9, 7, 4), np.uint8), ((9, 7), np.uint8)]
)
def test_sizes_and_modes_stay(shape, dtype):
    before = write("odd.png", shape, dtype)
    for command in ("denoise", "restore"):
        assert ldm(command, "odd.png", "--model", "model", "-o", "out.png").exit_code == 0
        after = np.array(Image.open("out.png"))
        assert after.shape == before.shape and Image.open("out.png").mode == Image.open("odd.png").mode
        if len(shape) == 3 and shape[2] == 4:
            assert np.array_equal(after[..., 3], before[..., 3])


def test_of_many_pictures_a_broken_one_is_said_at_the_end():
    Path("broken.png").write_bytes(b"no picture")
    write("z.png")
    result = ldm("denoise", "*.png", "--model", "model", "-o", "out/")
    assert result.exit_code == 5
    assert [line.split("  ")[0] for line in result.stdout.splitlines()] == ["out/a-denoised.png", "out/z-denoised.png"]
    first, last = result.stderr.strip().splitlines()
    assert "broken.png" in first and last == "ldm: 1 of 3 pictures could not be used"
    assert "broken.png" in complaint(ldm("denoise", "broken.png", "--model", "model"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("denoise", "a.png", "--noise", "gaus=3"), "did you mean 'gaussian'"),
        (("denoise", "a.png", "--noise", "gaussian=99"), "gaussian=99 is out of range"),
        (("restore", "a.png", "--damage", "jpg=30"), "did you mean 'jpeg'"),
        (("restore", "a.png", "--damage", "blur=9"), "blur=9 is out of range; use pixels from 0 to 3"),
        (("upscale", "a.png", "--by", "3", "--model", "model"), "by=3 is not what the restorer does; use 2 or 4"),
        (("upscale", "a.png", "--strength", "0.2", "--model", "model"), "--strength is without effect on the restorer"),
        (("upscale", "a.png", "a cat", "--model", "model"), "PROMPT is without effect on the restorer"),
        (("upscale", "a.png", "a cat", "--careful"), "--careful is the restorer's"),
    ],
)
def test_wrong_options_are_one_line_before_a_model_is_loaded(arguments, message):
    assert message in complaint(ldm(*arguments))


def test_missing_models_and_pictures_are_one_line():
    assert "neither shipped nor a folder" in complaint(ldm("denoise", "a.png", "--model", "nowhere"), 1)
    assert "missing.png" in complaint(ldm("denoise", "missing.png", "--model", "model"), 1)
    Path("other").mkdir()
    assert "config.json" in complaint(ldm("denoise", "a.png", "--model", "other"), 1)


def test_upscale_takes_the_shipped_restorer_where_only_by_is_given(monkeypatch):
    ship_model(monkeypatch)
    result = ldm("upscale", "a.png", "--by", "4", "--consistent", "--careful", "-o", "b.png")
    assert result.stdout == "b.png  4 times larger\n", result.output
    assert Image.open("b.png").size == (56, 40)
    record = json.loads(ldm("inspect", "b.png", "--json").stdout)
    assert (record["tool"], record["by"], record["consistent"], record["careful"]) == ("ldm upscale", 4, True, True)
    assert ldm("upscale", "a.png", "-o", "c.png").stdout == "c.png  2 times larger\n"


@pytest.mark.parametrize("options", [("a cat",), ("--strength", "0.2"), ("--by", "8"), ("--model", "nothing-here")])
def test_upscale_with_words_or_other_options_is_a_models(options, monkeypatch):
    import ldm.cli.tasks as tasks

    ship_model(monkeypatch)
    made_by: list[str] = []
    monkeypatch.setattr(tasks, "_run", lambda name, *rest, **more: made_by.append(name))
    assert ldm("upscale", "a.png", *options).exit_code == 0
    assert made_by == ["upscale"]


def test_an_interrupt_says_what_is_finished(monkeypatch):
    Path("in").mkdir()
    for name in ("1.png", "2.png", "3.png"):
        Path("in", name).write_bytes(Path("a.png").read_bytes())
    denoise = Restorer.denoise

    def stop(self, image, *more):
        if Path(image).name == "2.png":
            raise KeyboardInterrupt
        return denoise(self, image, *more)

    monkeypatch.setattr(Restorer, "denoise", stop)
    result = ldm("denoise", "in", "--model", "model", "-o", "out")
    assert result.exit_code == 130 and "interrupted: 1 of 3 pictures are finished, in out" in result.stderr
    assert [path.name for path in Path("out").iterdir()] == ["1-denoised.png"]


def test_a_restorer_is_inspected():
    shown = json.loads(ldm("inspect", "model", "--json").stdout)
    assert shown["type"].startswith("a restorer of gaussian, salt_and_pepper") and shown["sizes"]["restorer"] > 1000
