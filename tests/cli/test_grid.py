"""`ldm grid`: axes as A1111's X/Y/Z plot, cells that are the pictures of `ldm generate`, going on, what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ldm.cli import app
from ldm.cli.axes import cells, expand, parse_axis
from ldm.cli.grid_sheet import fitting, grid_sheet
from ldm.generation.from_picture import request_from
from ldm.generation.request import Request

RED = Request(prompt="a red apple", negative_prompt="apple pie")


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def grid(model: Path, *arguments: str):
    return CliRunner().invoke(app, ["grid", "--model", str(model), *arguments])


@pytest.mark.parametrize(
    ("piece", "whole", "values"),
    [
        ("7", True, ["7"]),
        ("1-5", True, ["1", "2", "3", "4", "5"]),
        ("1-5(+2)", True, ["1", "3", "5"]),
        ("1-6 (+2)", True, ["1", "3", "5"]),
        ("5-1(-2)", True, ["5", "3", "1"]),
        ("3-1", True, ["3", "2", "1"]),
        ("1-10[5]", True, ["1", "3", "5", "7", "10"]),  # as numpy's linspace, cut to whole numbers
        ("1:7:4", False, ["1", "3", "5", "7"]),
        ("0-1[5]", False, ["0", "0.25", "0.5", "0.75", "1"]),
        ("0-1(+0.1)", False, ["0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1"]),
        ("-1-1", False, ["-1", "0", "1"]),
        ("1.5", False, ["1.5"]),
    ],
)
def test_ranges_are_those_of_a1111(piece: str, whole: bool, values: list[str]) -> None:
    assert expand(piece, whole) == values


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("steps=1-3", "num_inference_steps", [1, 2, 3]),
        ("cfg=1:7:4", "guidance_scale", [1.0, 3.0, 5.0, 7.0]),
        ("CFG Scale=2, 3.5", "guidance_scale", [2.0, 3.5]),
        ("Sampler=ddim,DPM++ 2M Karras", "sampler", ["ddim", "DPM++ 2M Karras"]),
        ("Var. strength=0-1[3]", "variation_strength", [0.0, 0.5, 1.0]),
        ("Checkpoint name=emoji,other", "model", ["emoji", "other"]),
        ('prompt="a, b",c', "prompt", ["a, b", "c"]),
        ("upscale=true,false", "upscale", [True, False]),
        ("sampler-option.eta=0,0.5", "sampler_options", [{"eta": 0}, {"eta": 0.5}]),
        ("guidance.pag_scale=0-2", "guidance_options", [{"pag_scale": 0}, {"pag_scale": 1}, {"pag_scale": 2}]),
        ("lora=,ink.pt=0.5", "loras", [{}, {"ink.pt": 0.5}]),
        ("dtype=float32,bfloat16", "dtype", ["float32", "bfloat16"]),
    ],
)
def test_an_axis_is_any_option(text: str, name: str, values: list[Any]) -> None:
    axis = parse_axis("--x", text, RED)
    assert [axis.applied(RED, number) for number in range(len(values))] == [RED.changed({name: v}) for v in values]
    assert len(axis.labels) == len(values)


def test_search_and_replace_is_in_all_prompts() -> None:
    axis = parse_axis("--x", "S/R=apple,pear", RED)
    assert axis.applied(RED, 0) == RED
    assert axis.applied(RED, 1) == Request(prompt="a red pear", negative_prompt="pear pie")
    assert axis.labels == ["apple", "pear"]


def test_cells_run_along_x_first() -> None:
    axes = [parse_axis("--x", "steps=1,2,3", RED), parse_axis("--y", "seed=4,5", RED)]
    found = [(each.num_inference_steps, each.seed) for each in cells(RED, axes)]
    assert found == [(1, 4), (2, 4), (3, 4), (1, 5), (2, 5), (3, 5)]


def test_cells_are_the_pictures_of_generate_and_the_sheet_shows_them(tiny_folder: Path) -> None:
    run = ["apple", "--x", "steps=1,2", "--y", "cfg=1:5:3", "--z", "seed=3,4", "-o", "out"]
    result = grid(tiny_folder, *run, "--json")
    assert result.exit_code == 0 and result.stderr == "", result.output
    cost, first, left, *_, last = map(json.loads, result.stdout.splitlines())
    assert cost == {"cells": 12, "finished": 0, "steps": 18}
    assert left["estimated_seconds"] > 0 and Path(first["cell"]).is_file()
    sheet = Path(last["grid"])
    content = json.loads(sheet.with_suffix(".json").read_text())
    assert content["axes"]["y"] == {"option": "cfg", "values": ["1", "3", "5"]} and len(content["cells"]) == 12
    picture = np.asarray(Image.open(sheet))
    for cell in content["cells"]:
        file = Path("out") / cell["file"]
        request = request_from(file)[0]
        assert (request.num_inference_steps, request.guidance_scale) == (int(cell["x"]), float(cell["y"]))
        assert request.seed == int(cell["z"]) == cell["request"]["seed"]
        assert shown(picture, np.asarray(Image.open(file)))
    alone = CliRunner().invoke(
        app,
        ["generate", "apple", "--model", str(tiny_folder), "--steps", "2", "--cfg", "5", "--seed", "4", "-o", "a.png"],
    )
    assert alone.exit_code == 0
    same = next(cell for cell in content["cells"] if (cell["x"], cell["y"], cell["z"]) == ("2", "5", "4"))
    assert Path("a.png").read_bytes() == (Path("out") / same["file"]).read_bytes()


def shown(sheet: np.ndarray, tile: np.ndarray) -> bool:
    """Whether a picture is somewhere within another."""
    height, width = tile.shape[:2]
    corners = (sheet[: len(sheet) - height + 1, : sheet.shape[1] - width + 1] == tile[0, 0]).all(-1)
    return any((sheet[y : y + height, x : x + width] == tile).all() for y, x in np.argwhere(corners))


def test_finished_cells_are_not_drawn_again(tiny_folder: Path) -> None:
    run = ["apple", "--x", "variation-strength=0,0.5,1", "--steps", "1", "-o", "out"]  # with random seeds
    first = grid(tiny_folder, *run)
    assert first.exit_code == 0, first.output
    assert "ldm: 3 pictures; 3 steps" in first.stderr and "for the other pictures" in first.stderr
    files = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    assert len(files) == 5
    cell = next(path for path in files if path.parent.name == "cells")
    cell.unlink()
    again = grid(tiny_folder, *run)
    assert "ldm: 3 pictures, 2 of them finished; 1 steps" in again.stderr
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == files
    assert grid(tiny_folder, *run, "--quiet").output == ""
    run[2] = "variation-strength=0,0.25,0.5,1"
    seeds = json.loads(next(Path("out").glob("*.json")).read_text())
    more = grid(tiny_folder, *run, "--seed", str(seeds["seed"]), "--variation", str(seeds["variation_seed"]))
    assert more.exit_code == 0


def test_a_model_is_opened_once_for_all_cells_that_need_it(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ldm.cli.opener as opener

    opened: list[Any] = []
    load = opener._load
    monkeypatch.setattr(opener, "_load", lambda request, *rest: opened.append(request.dtype) or load(request, *rest))
    result = grid(tiny_folder, "apple", "--x", "dtype=float32,bfloat16", "--y", "seed=1-3", "--steps", "1")
    assert result.exit_code == 0, result.output
    assert opened == ["float32", "bfloat16"]


def test_an_interrupt_leaves_what_is_finished(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ldm.cli.grid as command

    draw, count = command._cell, iter(range(9))

    def stop(*arguments: Any) -> Any:
        if next(count) == 2:
            raise KeyboardInterrupt
        return draw(*arguments)

    monkeypatch.setattr(command, "_cell", stop)
    run = ["apple", "--x", "seed=1-3", "--steps", "1"]
    result = grid(tiny_folder, *run)
    assert result.exit_code == 130
    assert "ldm: interrupted: 2 of 3 pictures are finished; the same command goes on" in result.stderr
    monkeypatch.setattr(command, "_cell", draw)
    assert "3 pictures, 2 of them finished; 1 steps" in grid(tiny_folder, *run).stderr


def test_pictures_of_different_sizes_have_their_places() -> None:
    files = []
    for number, size in enumerate([(20, 10), (10, 30), (20, 30), (5, 5)]):
        Image.new("RGB", size, (number * 60, 0, 0)).save(f"{number}.png")
        files.append(Path(f"{number}.png"))
    sheet = np.asarray(grid_sheet(files, (["", ""], ["", ""], [""])))
    assert sheet.shape == (64, 44, 3)
    for (y, x), level in {(15, 10): 0, (15, 34): 60, (49, 10): 120, (49, 34): 180}.items():
        assert sheet[y, x].tolist() == [level, 0, 0]
    labelled = np.asarray(grid_sheet(files, (["a", "b"], ["c", "d"], [""])))
    assert labelled.shape > sheet.shape and (labelled[: len(labelled) - 64] != 255).any()
    assert fitting("a long label", 6, len) == "a l..." and fitting("short", 6, len) == "short"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a", "--x", "steps"], "--x steps has no values; write --x steps=10,20,30"),
        (["a", "--y", "seed=1,2"], "write --x steps=10,20,30"),
        (["a", "--x", "stepz=1"], "there is no option 'stepz'; did you mean 'steps'"),
        (["a", "--x", "steps=a"], "steps a is no whole number"),
        (["a", "--x", "steps=0"], "--steps 0 is not possible"),
        (["a", "--x", "steps=1-5(-1)"], "does not end"),
        (["a", "--x", "cfg=1-2[0]"], "1-2[0] has 0 values"),
        (["a", "--x", "S/R=pear,apple"], "'pear' is in no prompt; begin with the words to replace"),
        (["a", "--x", "n=1,2"], "a cell holds one picture; write --x seed=1-4"),
        (["a", "--x", "steps.b=1"], "'steps' has no 'b'"),
        (["a", "--x", 'prompt="a'], "--x prompt="),
        (["a", "--x", "sampler=ddim,eulr"], "unknown sampler 'eulr'"),
        (["a", "--x", "steps=1-1000", "--y", "seed=1-11"], "a grid of 11,000 cells is too large"),
        (["a", "b", "--x", "steps=1"], "a grid needs one PROMPT"),
        (["a", "--n", "2", "--x", "steps=1"], "--n 2: a cell holds one picture"),
        (["a", "--x", "steps=1", "-o", "file"], "--output file is a file; name a folder"),
        (["a", "--x", "steps=1", "-o", "grid.png"], "--output grid.png is a file; name a folder"),
        (["a", "--x", "steps=1", "--preview", "often"], "--preview often is not possible; write --preview every=5"),
        (["a", "--x", "lora=nowhere.safetensors"], "nowhere.safetensors does not exist"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(arguments: list[str], words: str, tiny_folder: Path) -> None:
    Path("file").write_text("")
    result = grid(tiny_folder, *arguments)
    assert result.exit_code in (1, 2) and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("ldm: ") and words in line
    assert [path.name for path in Path().iterdir()] == ["file"]
