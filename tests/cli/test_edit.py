"""`ldm edit` with --source and --instruct, and `ldm upscale`: which task it is, and what does not go together."""

import json
from pathlib import Path

import numpy as np
import pytest
from families import make_family, save
from PIL import Image
from task_models import picture
from typer.testing import CliRunner

from ldm.cli import app

STEPS = ("--steps", "2", "--seed", "1", "-q")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    Image.fromarray(picture(33, 21)).save(tmp_path / "in.png")
    return tmp_path / "in.png"


def ldm(*arguments: object):
    return CliRunner().invoke(app, [str(each) for each in arguments])


def task_of(path: Path) -> dict[str, object]:
    return json.loads(Image.open(path).info["ldm"])["task"]


def test_source_edits_by_words_and_the_picture_repeats(file: Path, tiny_folder: Path, tmp_path: Path) -> None:
    out, again, other = (tmp_path / name for name in ("out.png", "again.png", "other.png"))
    own = ("--model", tiny_folder)
    result = ldm("edit", file, "dark sea", "--source", "apple", *own, *STEPS, "-o", out)
    assert result.exit_code == 0, result.stderr
    assert task_of(out)["name"] == "edit" and task_of(out)["source"] == "apple"
    assert ldm("edit", "--from-image", out, "-q", "-o", again).exit_code == 0
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(again)))
    result = ldm("edit", "--from-image", out, "--edit-method", "ddpm", "-q", "-o", other)
    assert result.exit_code == 0, result.stderr
    assert task_of(other)["method"] == "ddpm" and task_of(other)["source"] == "apple"
    same = ldm("edit", file, "apple", "--source", "apple", *own, *STEPS, "-o", out)
    assert same.exit_code == 0 and np.array_equal(np.asarray(Image.open(out)), picture(33, 21))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--local", "0.5"), "--local is without effect; give --source, too"),
        (("--image-cfg-scale", "2"), "--image-cfg-scale is without effect; give --instruct, too"),
        (("--source", " "), "source is empty"),
        (("--source", "apple", "--edit-method", "magic"), "unknown --edit-method 'magic'"),
        (("--source", "apple", "--strength", "1.5"), "--strength 1.5 is not possible"),
        (("--instruct",), "this model is for text to image"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    file: Path, tiny_folder: Path, tmp_path: Path, arguments: tuple[str, ...], line: str
) -> None:
    result = ldm("edit", file, "sea", *arguments, "--model", tiny_folder, *STEPS, "-o", tmp_path / "out.png")
    assert result.exit_code != 0 and line in result.stderr and not (tmp_path / "out.png").exists()


def test_models_for_instructions_are_named_their_command_and_follow_it(file: Path, tmp_path: Path) -> None:
    pipeline = make_family("editing", tmp_path / "parts")
    model, out = save(pipeline, tmp_path / "model"), tmp_path / "out.png"
    for command in (("generate",), ("edit", file)):
        refused = ldm(*command, "make it dark", "--model", model, *STEPS, "-o", out)
        assert refused.exit_code != 0 and "use ldm edit IMAGE INSTRUCTION --instruct" in refused.stderr
    result = ldm(
        "edit", file, "make it dark", "--instruct", "--image-cfg-scale", "2", "--model", model, *STEPS, "-o", out
    )
    assert result.exit_code == 0, result.stderr
    assert task_of(out)["image_guidance_scale"] == 2.0 and Image.open(out).size == (21, 33)
    assert ldm("edit", "--from-image", out, "-q", "-o", tmp_path / "again.png").exit_code == 0
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(tmp_path / "again.png")))


def test_upscale_needs_no_words_and_keeps_the_name(file: Path, tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    result = ldm("upscale", file, "--by", "2", "--strength", "0.2", "--model", tiny_folder, *STEPS, "-o", out)
    assert result.exit_code == 0, result.stderr
    assert Image.open(out).size == (42, 66) and task_of(out)["name"] == "upscale"
