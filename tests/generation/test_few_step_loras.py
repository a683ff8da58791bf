"""Published LoRAs for few steps are recognised by name, bring their settings where none are given, and say so once."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from ldm import LatentDiffusion
from ldm.cli import app
from ldm.families.few_step_loras import FEW_STEP_LORAS, few_step_lora
from ldm.generation.few_steps import steps_for
from ldm.generation.recipe import Recipe
from ldm.generation.request import Request
from ldm.process import DiscreteVP
from ldm.samplers import make_sampler
from ldm.schedules import SCHEDULES, make_grid

LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


def saved(path: Path, metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {f"{LAYER}.lora_down.weight": torch.randn(2, 16), f"{LAYER}.lora_up.weight": torch.randn(16, 2)}, path, metadata
    )
    return path


@pytest.fixture
def model(tiny_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_folder)


@pytest.fixture(autouse=True)
def width_of_the_layer(model: LatentDiffusion) -> None:
    assert model.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight.shape == (16, 16)


@pytest.mark.parametrize(
    ("name", "title", "steps", "sampler", "scale"),
    [
        ("lcm-lora-sdv1-5.safetensors", "LCM-LoRA", 4, "lcm", 1.0),
        ("LCM_LoRA_SDXL.safetensors", "LCM-LoRA", 4, "lcm", 1.0),
        ("lcm-lora-sdv1-5/pytorch_lora_weights.safetensors", "LCM-LoRA", 4, "lcm", 1.0),
        (
            "models--latent-consistency--lcm-lora-sdxl/snapshots/ab12/pytorch_lora_weights.safetensors",
            "LCM-LoRA",
            4,
            "lcm",
            1,
        ),
        ("TCD-SD15-LoRA/pytorch_lora_weights.safetensors", "TCD-LoRA", 4, "tcd", 1.0),
        ("tcd-sdxl-lora.safetensors", "TCD-LoRA", 4, "tcd", 1.0),
        ("Hyper-SD15-8steps-lora.safetensors", "Hyper-SD", 8, "ddim", 1.0),
        ("Hyper-SDXL-2steps-lora.safetensors", "Hyper-SD", 2, "ddim", 1.0),
        ("Hyper-SDXL-1step-lora.safetensors", "Hyper-SD", 1, "tcd", 1.0),
        ("Hyper-SD15-12steps-CFG-lora.safetensors", "Hyper-SD with guidance", 12, "ddim", 5.0),
        ("sdxl_lightning_4step_lora.safetensors", "SDXL-Lightning", 4, "euler", 1.0),
        ("sdxl_lightning_8step_lora.safetensors", "SDXL-Lightning", 8, "euler", 1.0),
        ("dmd2_sdxl_4step_lora_fp16.safetensors", "DMD2", 4, "lcm", 1.0),
    ],
)
def test_published_files_are_recognised(tmp_path: Path, name: str, title: str, steps: int, sampler: str, scale: float):
    found = few_step_lora(tmp_path / name, {})
    assert found is not None
    assert (found.title, found.num_inference_steps, found.sampler, found.guidance_scale) == (
        title,
        steps,
        sampler,
        scale,
    )


@pytest.mark.parametrize(
    "name", ["ink", "lightning-strike", "hyper-real", "calcium", "pytorch_lora_weights", "steps-4"]
)
def test_others_are_not(name: str):
    assert (
        few_step_lora(Path("/models") / f"{name}.safetensors", {"format": "pt", "ss_output_name": "my style"}) is None
    )


def test_a_renamed_file_is_recognised_by_its_header():
    found = few_step_lora(Path("fast.safetensors"), {"ss_output_name": "Hyper-SD15-4steps-lora"})
    assert found is not None and (found.title, found.num_inference_steps) == ("Hyper-SD", 4)


@pytest.mark.parametrize("kind", FEW_STEP_LORAS, ids=lambda kind: kind.title)
def test_every_setting_exists(kind):
    assert kind.schedule in SCHEDULES
    make_sampler(kind.sampler, kind.sampler_options)
    make_grid(kind.schedule, DiscreteVP(), kind.num_inference_steps, kind.schedule_options)


def test_dmd2_visits_the_timesteps_of_its_card():
    found = few_step_lora(Path("dmd2_sdxl_4step_lora.safetensors"), {})
    assert found is not None
    grid = make_grid(found.schedule, DiscreteVP(), 4, found.schedule_options)
    assert grid[:-1].tolist() == [999.0, 749.0, 499.0, 249.0]


def test_its_settings_hold_where_none_are_given_and_a_line_says_so(
    model: LatentDiffusion, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.WARNING)
    model.load_lora(saved(tmp_path / "TCD-SD15-LoRA.safetensors"), weight=0.5)
    for _ in range(2):
        recipe = model("apple", seed=0).recipes[0]
    assert caplog.messages == [
        "TCD-SD15-LoRA is TCD-LoRA: 4 steps, guidance scale 1, tcd on trailing, eta 0.3, where nothing else is given"
    ]
    assert (recipe.num_inference_steps, recipe.guidance_scale) == (4, 1.0)
    assert (recipe.sampler, recipe.schedule, recipe.sampler_options) == ("tcd", "trailing", {"eta": 0.3})
    changed = model("apple", seed=0, num_inference_steps=2, guidance_scale=2.0, sampler_options={"eta": 0.1}).recipes[0]
    assert (changed.num_inference_steps, changed.guidance_scale, changed.sampler) == (2, 2.0, "tcd")
    assert changed.sampler_options == {"eta": 0.1}
    other = model("apple", seed=0, sampler="euler").recipes[0]
    assert (other.sampler, other.num_inference_steps, other.sampler_options) == ("euler", 4, {})
    model.loras.unload()
    assert (
        model("apple", seed=0, num_inference_steps=1).recipes[0].guidance_scale == model.parts.defaults.guidance_scale
    )


def test_a_recipe_repeats_its_picture_though_the_file_was_renamed(
    model: LatentDiffusion, tiny_folder: Path, tmp_path: Path
):
    for name in ("TCD-SD15-LoRA", "dmd2_sdxl_4step_lora", "sdxl_lightning_4step_lora"):
        file = saved(tmp_path / f"{name}.safetensors")
        model.load_lora(file, weight=0.5)
        first = model("apple", seed=0, output_type="latent")
        model.loras.unload()
        plain = LatentDiffusion.from_pretrained(tiny_folder)
        plain.load_lora(file.rename(tmp_path / "renamed.safetensors"), weight=0.5)
        recipe = Recipe.from_json(first.recipes[0].to_json(), "a.png")
        again = plain.steps(recipe, output_type="latent")
        list(again)
        assert torch.equal(again.result.images, first.images)
        assert not plain.few_step_loras


def test_a_tag_brings_them_too_unless_its_weight_is_0(
    model: LatentDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LDM_HOME", str(tmp_path))
    saved(tmp_path / "models" / "loras" / "lcm-lora-sdv1-5.safetensors")
    assert steps_for(model, Request(prompt="apple")) == model.parts.defaults.num_inference_steps
    assert steps_for(model, Request(prompt="apple <lora:lcm-lora-sdv1-5:0.5>")) == 4
    assert (
        steps_for(model, Request(prompt="apple <lora:lcm-lora-sdv1-5:0>")) == model.parts.defaults.num_inference_steps
    )
    recipe = model("apple <lora:lcm-lora-sdv1-5:0.5>", seed=0).recipes[0]
    assert (recipe.sampler, recipe.num_inference_steps, recipe.guidance_scale) == ("lcm", 4, 1.0)


def test_the_command_line_says_so_once(tiny_folder: Path, tmp_path: Path):
    file = saved(tmp_path / "sdxl_lightning_4step_lora.safetensors")
    options = ["--model", str(tiny_folder), "--lora", f"{file}=0.1", "-o", str(tmp_path / "a.png"), "-n", "2"]
    result = CliRunner().invoke(app, ["generate", "apple", *options])
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert words.count("is SDXL-Lightning: 4 steps, guidance scale 1, euler on trailing") == 1
