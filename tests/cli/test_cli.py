"""The command line: pictures and their recipes, interrupts, full disks."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT
from command_line import QUICK, complaint, generate, ldm, pictures, read_recipe
from PIL import Image

from ldm import LatentDiffusion
from ldm.networks.upscaler.config import UpscalerConfig
from ldm.networks.upscaler.model import Upscaler


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_picture_lands_in_outputs_named_by_prompt_and_seed(tiny_folder: Path, tmp_path: Path) -> None:
    result = generate(tiny_folder, "A red apple, 3d style!", *QUICK)
    assert result.exit_code == 0, result.output
    assert re.fullmatch(r"outputs/a-red-apple-3d-style-5\.png  seed 5  \d+\.\d s\n", result.stdout)
    assert Image.open(tmp_path / "outputs" / "a-red-apple-3d-style-5.png").size == (32, 32)
    assert "2/2" in result.stderr and "it/s" in result.stderr


def test_nothing_in_the_folder_is_overwritten_but_a_named_file_is(tiny_folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert generate(tiny_folder, "x", *QUICK).exit_code == 0
    assert pictures(tmp_path) == ["outputs/x-5-2.png", "outputs/x-5.png"]
    for seed in ("1", "2"):
        assert generate(tiny_folder, "x", "--steps", "1", "--seed", seed, "--output", "y.png").exit_code == 0
    assert read_recipe(tmp_path / "y.png").seed == 2


def test_several_pictures_come_with_a_grid(tiny_folder: Path, tmp_path: Path) -> None:
    result = generate(tiny_folder, "apple", "sea", "--n", "3", *QUICK, "--output", "out/")
    assert result.exit_code == 0, result.output
    expected = [f"out/apple-{seed}.png" for seed in (5, 6, 7)] + ["out/apple-5-grid.png"]
    expected += [f"out/sea-{seed}.png" for seed in (8, 9, 10)] + ["out/sea-8-grid.png"]
    assert pictures(tmp_path) == sorted(expected)
    grid = np.asarray(Image.open(tmp_path / "out" / "sea-8-grid.png"))
    assert grid.shape == (66, 66, 3)
    np.testing.assert_array_equal(grid[34:, :32], np.asarray(Image.open(tmp_path / "out" / "sea-10.png")))
    single = generate(tiny_folder, "sea", "--steps", "2", "--seed", "9", "--output", "single.png")
    assert single.exit_code == 0
    assert (tmp_path / "single.png").read_bytes() == (tmp_path / "out" / "sea-9.png").read_bytes()


def test_several_pictures_for_one_file_name_get_different_names(tiny_folder: Path, tmp_path: Path) -> None:
    assert generate(tiny_folder, "apple", "--n", "2", *QUICK, "-o", "x.png").exit_code == 0
    assert pictures(tmp_path) == ["x-5-grid.png", "x-5.png", "x-6.png"]


def test_json_lines_are_all_that_is_printed(tiny_folder: Path) -> None:
    result = generate(tiny_folder, "apple", "--n", "2", *QUICK, "--json")
    first, second, grid = map(json.loads, result.stdout.splitlines())
    assert (first["picture"], first["seed"], second["seed"]) == ("outputs/apple-5.png", 5, 6)
    assert first["seconds"] > 0 and (first["tokens_used"], first["tokens_total"]) == (4, 4)
    assert grid == {"grid": "outputs/apple-5-grid.png"}
    assert result.stderr == ""


def test_picture_is_repeated_to_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    options = [
        "--cfg-scale",
        "3.5",
        "--negative-prompt",
        "blaue Äpfel",
        "--sampler",
        "dpmpp_2m",
        "--schedule",
        "karras",
    ]
    first = generate(
        tiny_folder, "ein Äpfelchen 🍎", *options, "--steps", "3", "--width", "40", "--height", "24", "-o", "x.png"
    )
    assert first.exit_code == 0, first.output
    again = ldm("generate", "--from-image", "x.png", "--output", "y.png")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()
    changed = ldm("generate", "--from-image", "x.png", "--seed", "0", "--output", "z.png")
    assert changed.exit_code == 0
    assert read_recipe(tmp_path / "z.png").seed == 0
    assert (tmp_path / "x.png").read_bytes() != (tmp_path / "z.png").read_bytes()


def test_batches_draw_the_same_pictures(tiny_folder: Path, tmp_path: Path) -> None:
    arguments = ["apple", "[apple:sea:1]", "--n", "3", *QUICK]
    assert generate(tiny_folder, *arguments, "-o", "alone").exit_code == 0
    assert generate(tiny_folder, *arguments, "-o", "together", "--batch-size", "4").exit_code == 0
    assert pictures(tmp_path / "alone") == pictures(tmp_path / "together")
    for name in pictures(tmp_path / "alone"):
        one, other = (np.asarray(Image.open(tmp_path / folder / name), dtype=float) for folder in ("alone", "together"))
        assert np.abs(one - other).max() <= 1
    sizes = [read_recipe(tmp_path / "together" / f"apple-{seed}.png").batch_size for seed in (5, 6, 7)]
    assert sizes == [4, 4, 4] and read_recipe(tmp_path / "alone" / "apple-5.png").batch_size == 1


def test_the_upscaler_can_be_left_out_and_put_back(tiny_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LatentDiffusion.from_pretrained(tiny_folder)
    upscaler = Upscaler(UpscalerConfig(width=8, blocks=1)).eval()
    LatentDiffusion(replace(model.parts, upscaler=upscaler)).save_pretrained(tmp_path / "model")
    for options, size in (([], 128), (["--no-upscale"], 32)):
        assert generate(tmp_path / "model", "apple", *QUICK, *options, "-o", f"{size}.png").exit_code == 0
        assert Image.open(tmp_path / f"{size}.png").size == (size, size)
    assert ldm("generate", "--from-image", "32.png", "--upscale", "-o", "again.png").exit_code == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "128.png").read_bytes()


def test_wildcards_are_drawn_by_seed_and_repeated(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "thing.txt").write_text("apple\nsea\n{red|dark} apple\n")
    assert (
        generate(tiny_folder, "a __thing__", "--n", "6", *QUICK, "--wildcards", "words", "-o", "x.png").exit_code == 0
    )
    prompts = {read_recipe(tmp_path / f"x-{seed}.png").prompt for seed in range(5, 11)}
    assert len(prompts) > 1 and prompts <= {"a apple", "a sea", "a red apple", "a dark apple"}
    assert ldm("generate", "--from-image", "x-7.png", "-o", "again.png").exit_code == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "x-7.png").read_bytes()
    assert "__no__ has no file no.txt" in complaint(generate(tiny_folder, "a __no__", *QUICK, "--wildcards", "words"))


def test_inspect_shows_the_recipe(tiny_folder: Path, tmp_path: Path) -> None:
    assert generate(tiny_folder, "apple [red]", *QUICK, "-o", "x.png").exit_code == 0
    shown = ldm("inspect", "x.png").stdout
    assert re.search(r"^prompt +apple \[red\]$", shown, re.M) and re.search(r"^seed +5$", shown, re.M)
    assert json.loads(ldm("inspect", "x.png", "--json").stdout)["num_inference_steps"] == 2
    text = Image.open(tmp_path / "x.png").text["parameters"]
    assert re.fullmatch(
        r"apple \[red\]\nSteps: 2, Sampler: DDIM, Schedule type: Leading, CFG scale: 7.5, Seed: 5, Size: 32x32, .*",
        text,
    )


def test_inspect_shows_what_other_tools_wrote(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", "a cat\nSteps: 20, Seed: 1, Sampler: Euler, Hires upscale: 2")
    Image.new("RGB", (8, 8)).save(tmp_path / "a1111.png", pnginfo=info)
    shown = ldm("inspect", "a1111.png").stdout.splitlines()
    assert [line.split(maxsplit=1) for line in shown[:2]] == [["tool", "A1111"], ["prompt", "a cat"]]
    assert shown[-1].startswith("Hires upscale ") and shown[-1].endswith(" 2  (not used here)")
    recipe = json.loads(ldm("inspect", "a1111.png", "--json").stdout)
    assert (recipe["prompt"], recipe["num_inference_steps"], recipe["unused"]) == ("a cat", 20, {"Hires upscale": "2"})


def test_recipes_of_other_tools_are_followed_as_far_as_they_go(tiny_folder: Path, tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    details = "Steps: 2, Sampler: Euler a, Schedule type: Karras, CFG scale: 3, Seed: 9, Size: 64x32, Model: v1-5"
    info.add_text("parameters", f"a (cat:1.2)\nNegative prompt: sea\n{details}, Hires upscale: 2")
    Image.new("RGB", (8, 8)).save(tmp_path / "a1111.png", pnginfo=info)
    result = generate(tiny_folder, "--from-image", "a1111.png", "--output", "again.png")
    assert result.exit_code == 0, result.stderr
    recipe = read_recipe(tmp_path / "again.png")
    assert (recipe.prompt, recipe.negative_prompt, recipe.seed, recipe.num_inference_steps) == (
        "a (cat:1.2)",
        "sea",
        9,
        2,
    )
    assert (recipe.sampler, recipe.schedule, recipe.width, recipe.height) == ("euler_ancestral", "karras", 64, 32)
    assert "A1111's Hires upscale is not used: 2" in result.stderr
    assert "A1111's model is not used: v1-5" in result.stderr


def test_full_disk_is_one_line_and_leaves_nothing(tiny_folder: Path, tmp_path: Path, nearly_full_disk) -> None:
    with nearly_full_disk(200):
        result = generate(tiny_folder, "x", *QUICK, "--json")
    assert "outputs/x-5.png could not be written" in complaint(result)
    assert "free some space" in result.stderr and result.exit_code == 1
    assert pictures(tmp_path) == []


def test_long_prompt_is_reported_with_its_tokens(tiny_folder: Path, tmp_path: Path) -> None:
    prompt = "red apple " * 1000
    result = generate(tiny_folder, prompt, *QUICK)
    assert result.exit_code == 0, result.output
    assert "5000 tokens, read in 358 chunks" in result.stderr
    (name,) = pictures(tmp_path / "outputs")
    assert len(name) < 100
    assert read_recipe(tmp_path / "outputs" / name).prompt == prompt
    shown = json.loads(generate(tiny_folder, prompt, *QUICK, "--json").stdout)
    assert (shown["tokens_used"], shown["tokens_total"], shown["chunks"]) == (5000, 5000, 358)


def test_prompts_of_any_script_become_file_names(tiny_folder: Path, tmp_path: Path) -> None:
    for prompt in ("../../etc/passwd", "🍎🍎", "красное яблоко", "a\x00b\n" + "长" * 300):
        assert generate(tiny_folder, prompt, "--steps", "1", "--seed", "0").exit_code == 0
    names = pictures(tmp_path)
    assert {"outputs/etc-passwd-0.png", "outputs/picture-0.png", "outputs/красное-яблоко-0.png"} < set(names)
    assert len(names) == 4


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(*arguments: str | Path) -> subprocess.Popen:
    # A shell starts its background jobs with Ctrl-C ignored, and children inherit that.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{listen}; from ldm.cli import main; main()", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


@pytest.mark.slow
def test_interrupt_leaves_finished_pictures_and_says_so(tiny_folder: Path, tmp_path: Path) -> None:
    process = start("generate", "x", "--n", "100000", "--steps", "3", "--seed", "0", "--model", tiny_folder, "--json")
    assert process.stdout is not None
    json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    finished = re.search(r"ldm: interrupted: (\d+) of 100000 pictures are finished, in outputs", errors)
    assert finished and "Traceback" not in errors
    left = pictures(tmp_path / "outputs")
    assert left and abs(len(left) - int(finished[1])) <= 1
    for name in left:
        assert name.endswith(".png")
        Image.open(tmp_path / "outputs" / name).load()


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "PIL", "transformers", "diffusers", "huggingface_hub", "omegaconf", "safetensors")
    code = (
        "import sys\nfrom ldm.cli import app\ntry:\n    app(['generate', '--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert run.stdout.splitlines()[-1] == "[]"
    assert "[default: the model's]" in " ".join(run.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["--fast", "--no-fast"])
def test_drawing_imports_only_what_draws(weights: str, tmp_path: Path) -> None:
    """What each of these costs at import is more than a picture of the shipped model."""
    heavy = ["transformers", "diffusers", "accelerate", "huggingface_hub", "omegaconf", "scipy", "jsonschema"]
    heavy += ["requests", "torch._dynamo", "torch._inductor", "torchvision", "sympy"]
    code = (
        "import gc, sys\nfrom ldm.cli import app\n"
        f"try:\n    app(['generate', 'a red apple', '--steps', '1', '{weights}'])\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        f"print([name for name in {heavy} if name in sys.modules], gc.isenabled())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment(), cwd=tmp_path
    )
    assert run.stdout.splitlines()[-1] == "[] True"


def test_no_arguments_show_the_help() -> None:
    result = ldm()
    assert result.exit_code == 0
    for command in ("generate", "inspect", "data", "train", "eval"):
        assert command in result.stdout


def test_data_set_is_built_and_checked(tmp_path: Path) -> None:
    built = ldm("data", "build", "digits", "--output", "digits", "--size", "16")
    assert built.exit_code == 0, built.output
    assert ldm("data", "check", "digits").stdout == "digits: no problems\n"
    shard = tmp_path / "digits" / "held_out" / "000000.tar"
    shard.write_bytes(shard.read_bytes().replace(b"IHDR", b"RDHI"))
    bad = ldm("data", "check", "digits")
    assert bad.exit_code == 1 and "held_out" in bad.stdout and "problems in digits" in bad.stderr
    assert "--scenes 3 belongs to emoji" in complaint(ldm("data", "build", "digits", "--scenes", "3"))
    assert "unknown data set 'digit'; did you mean 'digits'" in complaint(ldm("data", "build", "digit"))


def test_everything_that_shapes_a_picture_is_repeated(tiny_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 16, 32))
    mask.save(tmp_path / "left.png")
    save_file({"emb_params": torch.full((2, 16), 0.5)}, tmp_path / "spark.safetensors")
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    factors = {f"{layer}.lora_down.weight": torch.arange(16.0)[None], f"{layer}.lora_up.weight": torch.ones(16, 1)}
    save_file(factors, tmp_path / "ink.safetensors")
    options = ["--lora", "ink.safetensors=0.5", "--embedding", "spark.safetensors", "--region", "left.png=dark sea"]
    options += ["--guidance", "pag_scale=2", "--guidance", "guidance_interval=[0.1,0.9]", "--clip-skip", "1"]
    options += ["--sampler", "ddim", "--sampler-option", "eta=0.5", "--schedule-option", "offset=0"]
    options += ["--schedule", "leading", "--prompt-syntax", "a1111", "--weak-model", tiny_folder]
    options += ["--guidance", "autoguidance_scale=1.5"]
    prompt = "{red|green} spark (apple:1.3) [sea:dark:0.5]"
    first = generate(tiny_folder, prompt, *QUICK, *options, "--output", "x.png")
    assert first.exit_code == 0, first.stderr
    again = ldm("generate", "--from-image", "x.png", "--output", "y.png")
    assert again.exit_code == 0, again.stderr
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()
    plain = generate(tiny_folder, prompt, *QUICK, "--output", "z.png")
    assert plain.exit_code == 0 and (tmp_path / "z.png").read_bytes() != (tmp_path / "x.png").read_bytes()
