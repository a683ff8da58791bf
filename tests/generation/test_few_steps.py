"""A model with weights for few steps draws with them by default, and with its full ones when those are meant."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from ldm import LatentDiffusion
from ldm.adapters.lora.adapter_set import LoraSet
from ldm.cli import app
from ldm.evaluation.generated import Drawing, GeneratedPictures, drawing_key
from ldm.families.parts import FewSteps
from ldm.io.disk.files import ModelFileError

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A model folder with a LoRA for few steps that changes one layer."""
    model = LatentDiffusion.from_pretrained(tiny_folder)
    width = model.unet.get_submodule(LAYER).weight.shape[0]
    generator = torch.Generator().manual_seed(5)
    name = "lora_unet_" + LAYER.replace(".", "_")
    factors = {
        f"{name}.lora_down.weight": torch.randn(2, width, generator=generator),
        f"{name}.lora_up.weight": torch.randn(width, 2, generator=generator),
    }
    save_file(factors, tmp_path / "few.safetensors")
    few_steps = FewSteps(tmp_path / "few.safetensors", num_inference_steps=3)
    with_few_steps = LatentDiffusion(replace(model.parts, few_steps=few_steps))
    with_few_steps.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def model(folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(folder)


def latents(model: LatentDiffusion, **settings: object) -> Tensor:
    images: Tensor = model("apple", seed=3, output_type="latent", **settings).images  # type: ignore[arg-type]
    return images


def test_the_default_is_the_lora_in_its_steps_without_guidance(model: LatentDiffusion, folder: Path) -> None:
    plain = LatentDiffusion.from_pretrained(folder)
    plain.load_lora(folder / "few_steps" / "lora.safetensors")
    by_hand = {"num_inference_steps": 3, "guidance_scale": 1.0, "sampler": "ddim", "schedule": "trailing"}
    before = [value.clone() for value in model.unet.state_dict().values()]
    assert torch.equal(latents(model), latents(plain, **by_hand))
    assert all(torch.equal(*pair) for pair in zip(before, model.unet.state_dict().values(), strict=True))
    assert not torch.equal(latents(model), latents(model, **by_hand))


@pytest.mark.parametrize(
    "settings",
    [
        {"num_inference_steps": 3},
        {"guidance_scale": 1.0},
        {"negative_prompt": "sea"},
        {"sampler": "euler"},
        {"schedule": "karras"},
        {"guidance_options": {"pag_scale": 1.0}},
        {"fast": False},
    ],
)
def test_a_setting_of_the_full_model_takes_its_weights(
    model: LatentDiffusion, tiny_folder: Path, settings: dict[str, object]
) -> None:
    full = LatentDiffusion.from_pretrained(tiny_folder)
    assert torch.equal(latents(model, **settings), latents(full, **{**settings, "fast": False}))


def test_recipes_say_which_weights_drew_and_repeat_it(model: LatentDiffusion) -> None:
    for settings, fast in (({}, True), ({"num_inference_steps": 3}, False)):
        drawn = model("apple", seed=3, **settings)  # type: ignore[arg-type]
        (recipe,) = drawn.recipes
        assert recipe.fast is fast and recipe.num_inference_steps == 3
        again = model.steps(recipe.request()).result
        assert again.images[0].tobytes() == drawn.images[0].tobytes()


def test_a_model_without_them_says_so(tiny_folder: Path) -> None:
    model = LatentDiffusion.from_pretrained(tiny_folder)
    with pytest.raises(ValueError, match="fast=True needs a model with weights for few steps"):
        model("apple", fast=True)


def test_tags_and_few_steps_add_up(model: LatentDiffusion, folder: Path) -> None:
    lora = folder / "few_steps" / "lora.safetensors"
    model.load_lora(lora, 0.0, name="ink")
    twice = LatentDiffusion.from_pretrained(folder)
    twice.load_lora(lora, 2.0)
    found = model("apple <lora:ink:1>", seed=3, output_type="latent").images
    by_hand = {"num_inference_steps": 3, "guidance_scale": 1.0, "sampler": "ddim", "schedule": "trailing"}
    torch.testing.assert_close(found, latents(twice, **by_hand), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"sampler": "none"}, "sampler='none' is unknown"),
        ({"schedule": "none"}, "schedule='none' is unknown"),
        ({"steps": 3}, "steps is unknown"),
        (None, "lora.safetensors is missing"),
    ],
)
def test_what_is_damaged_is_named(folder: Path, change: dict[str, object] | None, message: str) -> None:
    file = folder / "few_steps" / "settings.json"
    if change is None:
        (folder / "few_steps" / "lora.safetensors").unlink()
    else:
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ModelFileError, match=message):
        LatentDiffusion.from_pretrained(folder)


def test_the_command_has_a_switch(folder: Path, tmp_path: Path) -> None:
    drawn = {}
    for option in ("--fast", "--no-fast"):
        file = tmp_path / f"{option}.png"
        result = CliRunner().invoke(app, ["generate", "apple", "--model", str(folder), option, "-o", str(file)])
        assert result.exit_code == 0, result.stderr
        drawn[option] = json.loads(Image.open(file).info["ldm"])["fast"]
    assert drawn == {"--fast": True, "--no-fast": False}


def test_an_evaluation_draws_as_the_model_does(model: LatentDiffusion, tmp_path: Path) -> None:
    texts = {"seen": ["apple"]}
    found = {}
    for name, steps, settings in (("usual", None, {}), ("full", 3, {"num_inference_steps": 3})):
        drawing = Drawing.of(model, steps, None, 3, 1)
        pictures = GeneratedPictures(tmp_path / drawing_key(model, texts, drawing))
        pictures.draw_missing(model, texts, drawing)
        found[name] = Image.open(pictures.path("seen", 0)).tobytes()
        assert found[name] == model("apple", seed=3, **settings).images[0].tobytes()  # type: ignore[arg-type]
    assert found["usual"] != found["full"]


def test_an_evaluation_takes_the_options_of_a_drawing(model: LatentDiffusion, tmp_path: Path) -> None:
    texts = {"seen": ["apple"]}
    options = {"guidance_options": {"guidance_reuse": 2}, "cache_options": {"deepcache": 2}}
    plain, other = Drawing.of(model, 4, 3.0, 3, 1), Drawing.of(model, 4, 3.0, 3, 1, *options.values())
    assert drawing_key(model, texts, plain) != drawing_key(model, texts, other)
    pictures = GeneratedPictures(tmp_path)
    pictures.draw_missing(model, texts, other)
    expected = model("apple", seed=3, num_inference_steps=4, guidance_scale=3.0, **options).images[0]
    assert Image.open(pictures.path("seen", 0)).tobytes() == expected.tobytes()
    with pytest.raises(ValueError, match="unknown cache option 'deep'"):
        Drawing.of(model, 4, 3.0, 3, 1, {}, {"deep": 2})


def test_the_same_weights_are_merged_once(model: LatentDiffusion, folder: Path, monkeypatch) -> None:
    merges: list[object] = []
    merged_at = LoraSet.merged_at
    monkeypatch.setattr(LoraSet, "merged_at", lambda this, weights: merges.append(weights) or merged_at(this, weights))
    first = latents(model)
    assert torch.equal(latents(model), first) and len(merges) == 1
    model.load_lora(folder / "few_steps" / "lora.safetensors", 0.5, name="ink")
    assert not torch.equal(latents(model), first) and len(merges) == 2
    model.loras.set_weights({"ink": 0.0})
    assert torch.equal(latents(model), first) and len(merges) == 3
    model.to(torch.bfloat16)
    latents(model)
    assert len(merges) == 4


def test_a_model_may_leave_it_to_the_request(folder: Path) -> None:
    file = folder / "few_steps" / "settings.json"
    fast = latents(LatentDiffusion.from_pretrained(folder))
    file.write_text(json.dumps({**json.loads(file.read_text()), "by_default": False}))
    model = LatentDiffusion.from_pretrained(folder)
    assert torch.equal(latents(model, fast=True), fast)
    assert torch.equal(latents(model), latents(model, fast=False)) and not torch.equal(latents(model), fast)
    assert Drawing.of(model, None, None, 0, 1).fast is False
