"""`ldm edit`, `inpaint` and `outpaint`: pictures in, pictures out, and bad input in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import make_family, save
from PIL import Image
from task_models import picture
from typer.testing import CliRunner

from ldm import LatentDiffusion
from ldm.cli import app
from ldm.generation.from_picture import request_from

QUICK = ["--steps", "2", "--seed", "5"]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture(20, 30)).save("in.png")
    mask = np.zeros((20, 30), np.uint8)
    mask[4:12, 8:20] = 255
    Image.fromarray(mask).save("mask.png")


def ldm(*arguments: Any):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def read(path: str) -> np.ndarray:
    return np.asarray(Image.open(path))


def complaint(result: Any, code: int = 2) -> str:
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == code and len(lines) == 1 and result.stdout == "", result.output
    return lines[0]


def test_a_picture_is_changed_filled_and_extended(tiny_folder: Path) -> None:
    runs = (
        ("edit", ["--strength", "0.5"]),
        ("inpaint", ["--mask", "mask.png", "--soft", "--crop", "4", "--feather", "2"]),
        ("outpaint", ["--left", "8", "--bottom", "3"]),
    )
    for command, options in runs:
        result = ldm(command, "in.png", "apple", *options, *QUICK, "--model", tiny_folder, "--output", f"{command}.png")
        assert result.exit_code == 0, result.output
    assert read("edit.png").shape == read("inpaint.png").shape == (20, 30, 3) and read("outpaint.png").shape == (
        23,
        38,
        3,
    )
    black = read("mask.png") == 0
    assert np.array_equal(read("inpaint.png")[black], read("in.png")[black])
    assert np.array_equal(read("outpaint.png")[:20, 8:], read("in.png"))


@pytest.mark.parametrize("command", ["generate", "edit"])
def test_a_picture_is_repeated_while_its_input_is_at_hand(tiny_folder: Path, command: str) -> None:
    made = ldm("edit", "in.png", "apple", "--strength", "0.5", *QUICK, "--model", tiny_folder, "--output", "a.png")
    assert made.exit_code == 0, made.output
    recipe = request_from(Path("a.png"))[0].task
    assert recipe["picture"] == "in.png" and len(recipe["picture_sha256"]) == 64
    again = ldm(command, "--from-image", "a.png", "--output", "b.png")
    assert again.exit_code == 0, again.output
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    Image.fromarray(picture(20, 30, seed=1)).save("in.png")
    lost = ldm(command, "--from-image", "a.png", "--output", "c.png")
    assert "in.png is not the picture of this recipe any more" in complaint(lost, 1)
    Path("in.png").unlink()
    assert "in.png does not exist" in complaint(ldm(command, "--from-image", "a.png", "--output", "c.png"), 1)


def test_strength_0_gives_the_files_pixels(tiny_folder: Path) -> None:
    ldm("edit", "in.png", "x", "--strength", "0", *QUICK, "--model", tiny_folder, "--output", "a.png")
    assert np.array_equal(read("a.png"), read("in.png"))
    assert request_from(Path("a.png"))[0].task["strength"] == 0


@pytest.mark.parametrize("form", ["folder", "pattern"])
def test_of_a_folder_with_a_broken_file_the_others_are_done(tiny_folder: Path, form: str) -> None:
    Path("many").mkdir()
    for name in ("a", "c"):
        Image.fromarray(picture()).save(f"many/{name}.png")
    Path("many/b.png").write_text("no picture")
    what = "many" if form == "folder" else "many/*.png"
    result = ldm("edit", what, "apple", *QUICK, "--model", tiny_folder, "--output", "out", "--json")
    assert result.exit_code == 5
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["input"], line["picture"]) for line in lines] == [
        ("many/a.png", "out/a-apple-5.png"),
        ("many/c.png", "out/c-apple-5.png"),
    ]
    last = result.stderr.strip().splitlines()[-2:]
    assert "many/b.png is not a picture" in last[0] and last[1] == "ldm: 1 of 3 pictures could not be used"


def test_nothing_is_written_over_an_input(tiny_folder: Path) -> None:
    before = Path("in.png").read_bytes(), Path("mask.png").read_bytes()
    for name in ("in.png", "./mask.png"):
        result = ldm("inpaint", "in.png", "x", "--mask", "mask.png", "--output", name, "--model", tiny_folder)
        assert f"--output {name} is a picture that is put in; use another name" in complaint(result)
    Path("many").mkdir()
    for name in ("x-5", "x"):
        Image.fromarray(picture()).save(f"many/{name}.png")
    kept = {path.name: path.read_bytes() for path in Path("many").iterdir()}
    for output in ("many", "many/x.png"):
        assert ldm("edit", "many", "x", *QUICK, "--model", tiny_folder, "--output", output).exit_code == 0
    assert {name: Path("many", name).read_bytes() for name in kept} == kept
    assert (Path("in.png").read_bytes(), Path("mask.png").read_bytes()) == before


BAD: list[tuple[list[str], int, str]] = [
    (["edit", "text.png", "x"], 2, "text.png is not a picture"),
    (["edit", "none.png", "x"], 1, "none.png does not exist"),
    (["edit", "large.png", "x"], 2, "too many for a picture; make it smaller"),
    (["edit", "in.png", "x", "--strength", "1.5"], 2, "--strength 1.5 is not possible; use 0 to 1"),
    (["edit", "in.png", "x", "--strength", "-1"], 2, "--strength -1.0 is not possible; use 0 to 1"),
    (["edit", "in.png"], 2, "PROMPT is missing or empty"),
    (["edit"], 2, "IMAGE is missing"),
    (["edit", "empty", "x"], 2, "empty holds no pictures"),
    (["edit", "no*.jpg", "x"], 2, "no file is called as no*.jpg says"),
    (["inpaint", "in.png", "x"], 2, "there is no mask; give --mask"),
    (["inpaint", "in.png", "x", "--mask", "text.png"], 2, "text.png is not a picture"),
    (["outpaint", "in.png", "x"], 2, "there are 0 pixels to extend"),
    (["outpaint", "in.png", "x", "--left", "-3"], 2, "--left -3 is not possible"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "words"), BAD, ids=lambda each: " ".join(each) if isinstance(each, list) else ""
)
def test_bad_input_is_one_line_before_the_model_is_loaded(arguments, code: int, words: str, monkeypatch) -> None:
    monkeypatch.setattr("ldm.generation.opened_model.load_folder", None)
    Path("text.png").write_text("words")
    Path("empty").mkdir()
    if "large.png" in arguments:
        Image.new("1", (20_000, 20_000)).save("large.png")
    assert words in complaint(ldm(*arguments), code)


def test_masks_are_scaled_empty_or_full_and_it_is_said(tiny_folder: Path) -> None:
    for name, size, value in (("small", (15, 10), 255), ("black", (30, 20), 0), ("white", (30, 20), 255)):
        Image.new("L", size, value).save(f"{name}.png")
    said = {}
    for name in ("small", "black", "white"):
        result = ldm(
            "inpaint", "in.png", "x", "--mask", f"{name}.png", *QUICK, "--model", tiny_folder, "-o", f"{name}-out.png"
        )
        assert result.exit_code == 0, result.output
        said[name] = result.stderr
    assert "the mask has 15 x 10 pixels; it is scaled to 30 x 20" in said["small"]
    assert "the mask is black all over, so the picture comes back as it is" in said["black"]
    assert (
        np.array_equal(read("black-out.png"), read("in.png")) and (read("white-out.png") != read("in.png")).mean() > 0.9
    )


def test_a_picture_of_one_pixel_has_a_way_through(tiny_folder: Path) -> None:
    Image.new("RGB", (1, 1), "red").save("one.png")
    Image.new("L", (1, 1), 255).save("spot.png")
    for command, options in (("edit", []), ("inpaint", ["--mask", "spot.png"]), ("outpaint", ["--right", "1"])):
        result = ldm(command, "one.png", "x", *options, *QUICK, "--model", tiny_folder, "-o", f"{command}.png")
        assert result.exit_code == 0, result.output
    assert read("edit.png").shape == (1, 1, 3) and read("outpaint.png").shape == (1, 2, 3)


def test_a_model_that_cannot_do_it_names_the_command_that_can(tmp_path: Path) -> None:
    for kind, words in (
        ("depth", "use ldm edit IMAGE PROMPT --depth MAP"),
        ("inpainting", "use ldm inpaint IMAGE PROMPT"),
    ):
        folder = save(make_family(kind, tmp_path / kind), tmp_path / kind / "model")
        wrong = "outpaint" if kind == "depth" else "edit"
        extra = ["--left", "8"] if kind == "depth" else []
        assert words in complaint(ldm(wrong, "in.png", "x", *extra, *QUICK, "--model", folder))
        assert words in complaint(ldm("generate", "x", *QUICK, "--model", folder))
    done = ldm("edit", "in.png", "x", "--depth", "mask.png", *QUICK, "--model", tmp_path / "depth/model", "-o", "d.png")
    assert done.exit_code == 0 and read("d.png").shape == (20, 30, 3), done.output


def test_methods_of_python_say_what_commands_do(tiny_folder: Path) -> None:
    model = LatentDiffusion.from_pretrained(tiny_folder)
    ldm("outpaint", "in.png", "x", "--left", "8", *QUICK, "--model", tiny_folder, "-o", "o.png")
    made = model.outpaint("x", "in.png", left=8, num_inference_steps=2, seed=5)
    assert np.array_equal(np.asarray(made.images[0]), read("o.png"))
