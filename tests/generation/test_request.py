"""`Request` is the one list of a picture's settings: everything else is read off it."""

import inspect
import json
import subprocess
import sys
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
import typer
from checkout import ROOT

from ldm import LatentDiffusion
from ldm.cli import app
from ldm.generation.from_picture import request_from
from ldm.generation.recipe import Recipe
from ldm.generation.request import Request, request_schema
from ldm.generation.setting import setting_of

OTHER: dict[str, Any] = {
    "prompt": "ein Äpfelchen 🍎",
    "num_images_per_prompt": 3,
    "batch_size": 4,
    "seed": 0,
    "variation_seed": 8,
    "variation_strength": 0.5,
    "latents": "noise.npy",
    "num_inference_steps": 7,
    "fast": False,
    "guidance_scale": 0.0,
    "guidance_rescale": 0.5,
    "negative_prompt": "sea",
    "sampler": "euler",
    "schedule": "karras",
    "width": 40,
    "height": 24,
    "tile_size": 16,
    "tile_overlap": 8,
    "tile_jitter": True,
    "seamless": "xy",
    "vae_memory": 0.5,
    "model": "a/b",
    "vae": "taesd_decoder.safetensors",
    "upscale": False,
    "device": "cuda:1",
    "dtype": "bfloat16",
    "attention": "math",
    "engine": "eager",
    "offload": "group",
    "clip_skip": 2,
    "prompt_syntax": "comfy",
    "prompt_2": "oil painting",
    "negative_prompt_2": "blurred",
    "wildcards": "words",
    "guidance_options": {"pag_scale": 3.0, "guidance_interval": [0.1, 0.9], "seg_blur_sigma": float("inf")},
    "cache_options": {"deepcache": 3},
    "token_merging": 0.5,
    "sampler_options": {"eta": 0.5},
    "schedule_options": {"rho": 5},
    "weak_model": "weak",
    "loras": {"ink.safetensors": {"unet": 0.5}},
    "allow_unmatched": True,
    "embeddings": {"spark.safetensors": "spark"},
    "regions": {"left.png": "sea"},
    "conditions": {"original_size": [64, 64]},
    "task": {"name": "img2img", "strength": 0.5},
    "prediction_type": "v_prediction",
    "zero_terminal_snr": False,
    "family": "sd2",
    "ema": True,
}
"""A value for every field that is not its default."""

NAMES = [each.name for each in fields(Request)]
DECIDED = {"seed": 1, "num_inference_steps": 9, "guidance_scale": 1.0, "guidance_rescale": 0.0, "sampler": "ddim"}
DECIDED |= {"schedule": "trailing", "width": 8, "height": 8, "device": "cpu", "dtype": "float32", "version": "1"}


def recipe(request: Request) -> Recipe:
    """As the pipeline makes it of a request that leaves nothing open."""
    decided = {name: value for name, value in DECIDED.items() if getattr(request, name, None) is None}
    return Recipe(**request.values() | decided)


def test_every_field_has_another_value_here() -> None:
    assert list(OTHER) == NAMES
    for each in fields(Request):
        default = each.default_factory() if each.default is MISSING else each.default  # type: ignore[misc]
        assert OTHER[each.name] != default or each.name == "zero_terminal_snr"


@pytest.mark.parametrize("name", NAMES)
def test_request_to_recipe_to_json_to_request_is_the_identity(name: str) -> None:
    request = replace(recipe(Request()).request(), **{name: OTHER[name]})
    again = Recipe.from_json(recipe(request).to_json(), "x.png").request()
    assert again == request and type(getattr(again, name)) is type(OTHER[name])


def test_several_prompts_survive_json() -> None:
    request = Request(prompt=("a", "b"), negative_prompt=("c", "d"))
    assert Request.from_content(json.loads(json.dumps(request.values())), "here") == request


@pytest.mark.parametrize("name", NAMES)
def test_every_field_has_an_option_a_keyword_and_a_schema_entry(name: str) -> None:
    without_option = ("conditions", "task")
    of_loading = ("model", "device", "dtype", "loras", "allow_unmatched", "embeddings")
    (parameters,) = [c.params for n, c in typer.main.get_command(app).commands.items() if n == "generate"]  # type: ignore[attr-defined]
    assert name in {each.name for each in parameters} or name in without_option
    call = inspect.signature(LatentDiffusion.__call__).parameters
    single_file = inspect.signature(LatentDiffusion.from_single_file).parameters
    assert name in call or name in single_file or name in of_loading
    entry = request_schema()["properties"][name]
    assert entry["description"] and entry["type"]


def test_call_has_no_setting_that_a_request_lacks() -> None:
    objects = {"self", "generator", "output_type", "callback", "callback_on_step_end", "progress_bar"}
    objects |= {"prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"}
    objects |= {"attention_hook"}
    assert set(inspect.signature(LatentDiffusion.__call__).parameters) - objects <= set(NAMES)


OPTIONS = {
    "guidance_options": ["pag_scale=3.0", "guidance_interval=[0.1,0.9]", "seg_blur_sigma=inf"],
    "cache_options": ["deepcache=3"],
    "sampler_options": ["eta=0.5"],
    "schedule_options": ["rho=5"],
    "loras": ["ink.safetensors=0.5"],
    "embeddings": ["spark.safetensors"],
    "regions": ["left.png=sea"],
}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("conditions", "task")])
def test_every_option_reaches_its_field(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    requests: list[Request] = []
    monkeypatch.setattr("ldm.cli.drawing.draw_lines", lambda lines, *_: requests.append(lines[0].request))
    each = next(each for each in fields(Request) if each.name == name)
    flag, value = setting_of(each).flag, OTHER[name]
    if name in OPTIONS:
        arguments = [text for entry in OPTIONS[name] for text in (flag, entry)]
    elif isinstance(value, bool):
        arguments = [flag if value else flag.replace("--", "--no-", 1)]
    else:
        arguments = [] if name == "prompt" else [flag, str(value)]
    result = CliRunner().invoke(app, ["generate", OTHER["prompt"], *arguments])
    assert result.exit_code == 0, result.stderr
    wanted = {"ink.safetensors": 0.5} if name == "loras" else value
    (request,) = requests
    seeds = {} if name == "seed" else {"seed": None}  # which are drawn where they are left open
    seeds |= {"variation_seed": None} if name == "variation_strength" else {}
    assert replace(request, **seeds) == Request(**{"prompt": OTHER["prompt"], name: wanted})


def test_schema_says_types_defaults_and_ranges() -> None:
    schema = request_schema()
    assert schema == json.loads(json.dumps(schema)) and not schema["additionalProperties"]
    entries = schema["properties"]
    assert entries["prompt"]["type"] == ["string", "array"] and entries["prompt"]["items"] == {"type": "string"}
    assert entries["seed"] == {
        "type": ["integer", "null"],
        "description": "Of the first picture; the next has the next seed. [default: random]",
        "default": None,
        "minimum": 0,
        "maximum": 2**64 - 1,
    }
    assert entries["guidance_options"]["type"] == "object" and entries["guidance_options"]["default"] == {}
    assert entries["prompt_syntax"]["enum"] == ["a1111", "comfy", "compel", "plain"]
    assert (entries["upscale"]["type"], entries["upscale"]["default"]) == ("boolean", True)


def test_the_command_prints_the_schema() -> None:
    from typer.testing import CliRunner

    printed = CliRunner().invoke(app, ["request", "--schema"])
    assert json.loads(printed.stdout) == request_schema()
    assert CliRunner().invoke(app, ["request"]).exit_code == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clip_skip": -33}, "clip_skip=-33 is not possible; use -32 to 100"),
        ({"guidance_rescale": 1.5}, "guidance_rescale=1.5 is not possible; use 0 to 1"),
        ({"seed": 2**64}, f"seed={2**64} is not possible; use 0 to {2**64 - 1:,}"),
        ({"prompt_syntax": "a111"}, "unknown prompt_syntax 'a111'; did you mean 'a1111'"),
    ],
)
def test_values_out_of_range_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", ".")):
        Request(**values).check()


def test_a_size_is_that_of_the_finished_picture() -> None:
    request = Request(width=256, height=128)
    assert request.changed({"upscale": False}) == Request(upscale=False)
    assert request.changed({"upscale": False, "width": 64}) == Request(upscale=False, width=64)
    assert request.changed({"upscale": True}) == request


def test_options_of_a_repeated_picture_are_joined_and_files_replaced() -> None:
    request = Request(sampler_options={"eta": 0.5, "s_noise": 1.0}, loras={"a": 1.0})
    changed = request.changed({"sampler_options": {"eta": 0.2}, "loras": {"b": 0.5}})
    assert changed.sampler_options == {"eta": 0.2, "s_noise": 1.0} and changed.loras == {"b": 0.5}


@pytest.mark.parametrize("name", ["load_options", "asked"])
def test_older_pictures_are_read(name: str) -> None:
    content = {key: value for key, value in json.loads(recipe(Request(prompt="x")).to_json()).items() if key != "ema"}
    for key in ("prediction_type", "family", "zero_terminal_snr", "num_images_per_prompt", "conditions", "task"):
        del content[key]
    older = Recipe.from_json(json.dumps({**content, name: {"prediction_type": "v_prediction", "ema": True}}), "x.png")
    assert older.load_options == {"prediction_type": "v_prediction", "ema": True}
    assert older.num_images_per_prompt == 1 and older.prompt == "x"


def test_requests_are_light() -> None:
    code = "import sys; import ldm.generation.recipe, ldm.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_a_picture_without_a_recipe_is_named(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    with pytest.raises(ValueError, match=r"plain\.png carries no recipe"):
        request_from(tmp_path / "plain.png")
