"""`--prompts FILE`: what lines mean, what is finished is passed over, what is wrong is said first."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from typer.testing import CliRunner

from ldm.cli import app
from ldm.cli.drawing import together
from ldm.cli.jobs import Line
from ldm.cli.journal import JOURNAL, Journal
from ldm.cli.prompt_lines import read_prompt_lines
from ldm.generation.from_picture import request_from
from ldm.generation.request import Request

QUICK = ["--steps", "1"]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def generate(model: Path, *arguments: str):
    return CliRunner().invoke(app, ["generate", "--model", str(model), *arguments])


def names(folder: str = "outputs") -> list[str]:
    return sorted(path.name for path in Path(folder).glob("*.png"))


def lines_of(text: str) -> list[dict[str, Any]]:
    Path("prompts.txt").write_text(text, encoding="utf-8")
    return [given for _, given in read_prompt_lines(Path("prompts.txt"))]


def test_lines_are_prompts_or_options_of_a1111_and_our_own() -> None:
    text = """# a comment
a fox -- in snow

--prompt "a fox" --negative_prompt sea and sky --steps 10 --seed 3 --width 32 --cfg_scale 5 --sampler_name "Euler a"
--prompt two foxes --n_iter 2 --batch_size 3 --subseed 4 --subseed_strength 0.5 --seed -1
--prompt "a" --sampler dpmpp_2m --sampler-option eta=0.5 --sampler-option s_noise=1 --lora ink.pt=0.7 --no-upscale -n 2
"""
    assert lines_of(text) == [
        {"prompt": "a fox -- in snow"},
        {"prompt": "a fox", "negative_prompt": "sea and sky", "num_inference_steps": 10, "seed": 3, "width": 32,
         "guidance_scale": 5.0, "sampler": "Euler a"},
        {"prompt": "two foxes", "num_images_per_prompt": 6, "variation_seed": 4, "variation_strength": 0.5,
         "seed": None},
        {"prompt": "a", "sampler": "dpmpp_2m", "sampler_options": {"eta": 0.5, "s_noise": 1}, "loras": {"ink.pt": 0.7},
         "upscale": False, "num_images_per_prompt": 2},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--prompt a --stepz 3", "there is no option '--stepz'; did you mean 'steps'"),
        ("--prompt a --tiling true", "there is no option '--tiling'"),
        ("--prompt a --steps many", "--steps many is no whole number"),
        ("--prompt a --cfg_scale x", "--cfg_scale x is no number"),
        ("--prompt a --seed", "--seed has no value"),
        ("--prompt 'a", "No closing quotation"),
        ("--prompt a --steps 3 4", "'4' stands where an option belongs"),
        ("--prompt a --n_iter 0", "--n_iter 0 is no number of pictures"),
        ("--steps 3", "PROMPT is missing or empty"),
        ("--prompt a --steps 0", "--steps 0 is not possible; use 1 to 10,000"),
        ("--prompt a --sampler_name eulr", "unknown sampler 'eulr'"),
        ("--prompt a --lora nowhere.safetensors", "nowhere.safetensors does not exist"),
        ("--prompt a --init-latents nowhere.npy", "nowhere.npy is missing"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_drawn(line: str, words: str, tiny_folder: Path) -> None:
    Path("prompts.txt").write_text(f"apple\n\n{line}\n")
    result = generate(tiny_folder, "--prompts", "prompts.txt", *QUICK)
    assert result.exit_code == 2 and result.stdout == "" and not Path("outputs").exists()
    (said,) = result.stderr.splitlines()
    assert said.startswith("ldm: prompts.txt line 3: ") and words in said


@pytest.mark.parametrize("text", ["", "\n# nothing\n"])
def test_a_file_without_prompts_is_named(text: str, tiny_folder: Path) -> None:
    Path("prompts.txt").write_text(text)
    result = generate(tiny_folder, "--prompts", "prompts.txt")
    assert result.exit_code == 2 and "--prompts prompts.txt has no prompt; write one on each line" in result.stderr


def test_plain_lines_count_seeds_up_as_prompts_do(tiny_folder: Path) -> None:
    Path("prompts.txt").write_text("apple\nsea\n--prompt fox --seed 40\nred\n")
    result = generate(tiny_folder, "sky", "--prompts", "prompts.txt", "--seed", "5", *QUICK)
    assert result.exit_code == 0, result.stderr
    assert names() == ["apple-6.png", "fox-40.png", "red-8.png", "sea-7.png", "sky-5.png"]
    result = generate(tiny_folder, "--prompts", "prompts.txt", "--seed", "5", "--same-seed", "-o", "same", *QUICK)
    assert names("same") == ["apple-5.png", "fox-40.png", "red-5.png", "sea-5.png"]


def test_finished_lines_are_passed_over(tiny_folder: Path) -> None:
    Path("prompts.txt").write_text("apple\n--prompt sea --n 2\n")
    run = ["--prompts", "prompts.txt", *QUICK]
    assert generate(tiny_folder, *run).exit_code == 0
    first = names()
    assert len(first) == 4  # with a contact sheet
    again = generate(tiny_folder, *run, "--json")
    assert again.exit_code == 0 and again.stdout == "" and names() == first
    assert again.stderr == "ldm: 3 of 3 pictures are finished in outputs; --again draws them anew\n"
    Path("prompts.txt").write_text("apple\nnew\n--prompt sea --n 2\n# end\n")
    assert len(generate(tiny_folder, *run, "--json").stdout.splitlines()) == 1 and len(names()) == 5
    gone = Path("outputs") / next(name for name in first if name.startswith("apple"))
    old = gone.read_bytes()
    gone.unlink()
    assert len(generate(tiny_folder, *run, "--json").stdout.splitlines()) == 1
    assert gone.read_bytes() == old  # the random seed, too
    assert len(generate(tiny_folder, *run, "--again", "--json").stdout.splitlines()) == 5
    other = generate(tiny_folder, *run[:2], "--steps", "2", "--json")
    assert len(other.stdout.splitlines()) == 5  # other settings are other pictures


def test_a_line_goes_on_where_it_was_cut(tiny_folder: Path) -> None:
    Path("prompts.txt").write_text("--prompt sea --n 3 --seed 7\n")
    run = ["--prompts", "prompts.txt", *QUICK]
    assert generate(tiny_folder, *run).exit_code == 0
    whole = {name: (Path("outputs") / name).read_bytes() for name in names()}
    journal = Path("outputs") / JOURNAL
    begin, first, second, _ = journal.read_text().splitlines()
    # killed after the second picture was written and before it was noted, in the middle of a line
    journal.write_text(f"{begin}\n{first}\n{second[:20]}")
    for name in ("sea-9.png", "sea-7-grid.png"):
        (Path("outputs") / name).unlink()
    assert generate(tiny_folder, *run).exit_code == 0
    assert {name: (Path("outputs") / name).read_bytes() for name in names()} == whole
    assert Journal(Path("outputs")).picture(json.loads(begin)["key"], 2) == Path("outputs/sea-9.png")


def test_kill_and_run_again_give_what_one_run_gives(tiny_folder: Path) -> None:
    Path("prompts.txt").write_text("".join(f"apple {number}\n" for number in range(6)))
    words = ["--model", str(tiny_folder), "--prompts", "prompts.txt", "--seed", "3", "--steps", "3", "-o", "cut"]
    command = [sys.executable, "-c", "from ldm.cli import main; main()", "generate", *words]
    process = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while len(names("cut")) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert generate(tiny_folder, *words[2:]).exit_code == 0
    assert generate(tiny_folder, *words[2:-1], "whole").exit_code == 0
    assert names("cut") == names("whole") == [f"apple-{number}-{number + 3}.png" for number in range(6)]
    for name in names("whole"):
        assert (Path("cut") / name).read_bytes() == (Path("whole") / name).read_bytes()


def test_lines_may_need_other_models_and_their_recipes_say_it(tiny_folder: Path) -> None:
    Path("prompts.txt").write_text("apple\n--prompt sea --dtype bfloat16 --width 40\n")
    result = generate(tiny_folder, "--prompts", "prompts.txt", "--seed", "1", *QUICK)
    assert result.exit_code == 0, result.stderr
    request = request_from(Path("outputs/sea-2.png"))[0]
    assert (request.dtype, request.width) == ("bfloat16", 40)
    assert request_from(Path("outputs/apple-1.png"))[0].dtype == "float32"


def test_pictures_go_through_the_network_together_as_far_as_they_are_alike() -> None:
    requests = [Request(prompt=prompt, seed=seed) for prompt, seed in (("a", 3), ("b", 4), ("c", 6), ("d", 7))]
    assert together(requests, 9) == Request(prompt=("a", "b"), seed=3)
    assert together(requests, 1) == Request(prompt=("a",), seed=3)
    assert together([requests[0], replace(requests[1], width=64)], 9) == Request(prompt=("a",), seed=3)
    varied = Line(Request(prompt="a", seed=1, variation_seed=5, variation_strength=0.5, num_images_per_prompt=3))
    joined = Request(prompt=("a",) * 3, seed=1, variation_seed=5, variation_strength=0.5)
    assert together(varied.pictures(), 9) == joined
