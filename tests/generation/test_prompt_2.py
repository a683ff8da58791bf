"""SDXL's second prompt: what diffusers encodes and draws, recipes, and models that have none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import PROMPTS, make_family

from ldm import LatentDiffusion
from ldm.generation.recipe import Recipe
from ldm.io.metadata.foreign_recipes import foreign_recipe

SECOND = ["red red", "an ap"]
AWAY = ["sea", "sea"]
AWAY_2 = ["blue", "ap ap"]
QUICK: dict[str, Any] = {"seed": 3, "num_inference_steps": 2, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_family("sdxl", tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def model(pipeline: Any) -> LatentDiffusion:
    return LatentDiffusion.from_diffusers(pipeline)


@pytest.mark.parametrize(
    "given",
    [{}, {"prompt_2": SECOND}, {"negative_prompt_2": AWAY_2}, {"prompt_2": SECOND, "negative_prompt_2": AWAY_2}],
)
def test_both_texts_are_encoded_as_diffusers_does(model: LatentDiffusion, pipeline: Any, given: dict[str, Any]) -> None:
    theirs = pipeline.encode_prompt(PROMPTS, negative_prompt=AWAY, **given)
    ours = model.encode_prompt(PROMPTS, AWAY, **given)
    for mine, other in zip(ours, ((theirs[0], theirs[2]), (theirs[1], theirs[3])), strict=True):
        torch.testing.assert_close(mine.tokens, other[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(mine.pooled, other[1], rtol=0, atol=1e-5)


def test_the_picture_is_that_of_diffusers(model: LatentDiffusion, pipeline: Any) -> None:
    pipeline.set_progress_bar_config(disable=True)
    size = model.parts.unet.config.in_channels, 8, 8
    given = {"prompt_2": SECOND, "negative_prompt": AWAY, "negative_prompt_2": AWAY_2, "output_type": "pt"}
    given |= {"latents": torch.randn(2, *size), "num_inference_steps": 3, "guidance_scale": 5.0}
    theirs = pipeline(PROMPTS, **given).images
    assert (model(PROMPTS, **given).images - theirs).abs().max() < 1e-3
    assert (model(PROMPTS, **{**given, "prompt_2": None}).images - theirs).abs().max() > 1e-2


def test_weights_edits_and_chunks_of_the_second_text_count(model: LatentDiffusion) -> None:
    def latents(**given: Any) -> torch.Tensor:
        return model("red", output_type="latent", **given, **QUICK).images

    plain = latents()
    assert torch.equal(latents(prompt_2="red", negative_prompt_2=""), plain)
    pictures = [latents(prompt_2=text) for text in ("(sea:1.4)", "sea", "[sea:ap:1]", "ap " * 20)]
    for one, other in zip([plain, *pictures], [*pictures, plain], strict=True):
        assert not torch.equal(one, other)
    assert model("red", prompt_2="ap " * 40, **QUICK).tokens[0].chunks > 1


def test_recipes_repeat_it(model: LatentDiffusion) -> None:
    result = model(["red", "ap"], prompt_2=["{a|b} sea", "ap"], negative_prompt_2="blue", batch_size=1, **QUICK)
    assert [each.negative_prompt_2 for each in result.recipes] == ["blue", "blue"]
    assert result.recipes[0].prompt_2 in ("a sea", "b sea")
    for image, recipe in zip(result.images, result.recipes, strict=True):
        again = model.steps(Recipe.from_json(recipe.to_json(), "x").request()).result.images[0]
        assert np.array_equal(np.asarray(again), np.asarray(image))


def test_comfyuis_two_texts_are_read() -> None:
    link = {"clip": ["4", 0]}
    graph = {
        "1": {"class_type": "CLIPTextEncodeSDXL", "inputs": {"text_l": "a fox", "text_g": "oil", **link}},
        "2": {"class_type": "CLIPTextEncodeSDXL", "inputs": {"text_l": "blur", "text_g": "blur", **link}},
        "3": {"class_type": "KSampler", "inputs": {"steps": 9, "positive": ["1", 0], "negative": ["2", 0]}},
    }
    recipe = foreign_recipe({"prompt": json.dumps(graph)})
    assert recipe is not None and not recipe.unused
    assert recipe.values == {
        "prompt": "a fox", "prompt_2": "oil", "negative_prompt": "blur", "num_inference_steps": 9
    }  # fmt: skip


def test_what_nothing_would_read_is_refused(model: LatentDiffusion, tiny_folder: Path) -> None:
    one = LatentDiffusion.from_pretrained(tiny_folder)
    with pytest.raises(ValueError, match="prompt_2 is for models with two text encoders, as SDXL"):
        one("red", prompt_2="sea", **QUICK)
    with pytest.raises(ValueError, match="negative_prompt_2 is for models with two"):
        one.encode_prompt("red", negative_prompt_2="sea")
    with pytest.raises(ValueError, match="there must be one prompt_2, or as many as prompts"):
        model("red", prompt_2=["sea", "ap"], **QUICK)
    with pytest.raises(ValueError, match="2 of prompt_2 for 1 prompts; give one, or one each"):
        model.encode_prompt("red", prompt_2=["sea", "ap"])
    states, _ = model.encode_prompt("red")
    with pytest.raises(ValueError, match="prompt_2 and prompt_embeds were given; use one of them"):
        model(prompt_embeds=states.tokens, pooled_prompt_embeds=states.pooled, prompt_2="sea", **QUICK)
