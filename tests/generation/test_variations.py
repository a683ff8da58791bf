"""Variation seeds and given noise: laws on pictures, recipes that repeat, A1111's words."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ldm import LatentDiffusion
from ldm.generation.first_noise import later
from ldm.generation.recipe import Recipe
from ldm.generation.request import Request
from ldm.io.metadata.a1111 import read_a1111
from ldm.noise import NoiseSource

QUICK = {"num_inference_steps": 2, "width": 32, "height": 32}


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_folder)


def shape_of(model: LatentDiffusion) -> tuple[int, int, int]:
    cells = 32 // model.parts.latent_format.factor
    return model.parts.latent_format.channels, cells, cells


def latents(model: LatentDiffusion, **options) -> torch.Tensor:
    return model("apple", output_type="latent", **QUICK, **options).images


def test_strength_0_is_the_seeds_picture_and_1_the_others(model: LatentDiffusion):
    assert torch.equal(latents(model, seed=1, variation_seed=9, variation_strength=0.0), latents(model, seed=1))
    assert torch.equal(latents(model, seed=1, variation_seed=9, variation_strength=1.0), latents(model, seed=9))
    between = latents(model, seed=1, variation_seed=9, variation_strength=0.5)
    assert not torch.equal(between, latents(model, seed=1)) and not torch.equal(between, latents(model, seed=9))


def test_nearer_strengths_are_nearer_pictures(model: LatentDiffusion):
    plain = latents(model, seed=1)
    away = [
        (latents(model, seed=1, variation_seed=9, variation_strength=share) - plain).norm() for share in (0.1, 0.3, 0.6)
    ]
    assert away[0] < away[1] < away[2]


def test_later_noise_stays_that_of_the_seed(model: LatentDiffusion):
    options = {"seed": 1, "sampler": "euler_ancestral"}
    varied = latents(model, **options, variation_seed=9, variation_strength=1.0)
    first = NoiseSource([9], shape_of(model))()
    assert torch.equal(varied, latents(model, **options, latents=first))
    assert not torch.equal(varied, latents(model, seed=9, sampler="euler_ancestral"))


def test_variations_count_up_and_the_seed_stays_as_in_a1111(model: LatentDiffusion):
    options = {"seed": 1, "variation_strength": 0.4}
    result = model("apple", num_images_per_prompt=3, variation_seed=9, **options, **QUICK)
    assert result.seeds == [1, 1, 1] and [each.variation_seed for each in result.recipes] == [9, 10, 11]
    for number, recipe in enumerate(result.recipes):
        alone = model("apple", variation_seed=9 + number, **options, **QUICK)
        difference = np.asarray(alone.images[0], float) - np.asarray(result.images[number], float)
        assert np.abs(difference).max() <= 1  # batches round
        (again,) = model.steps(recipe.request()).result.images
        assert np.array_equal(np.asarray(again), np.asarray(alone.images[0]))


def test_a_random_variation_is_in_the_recipe(model: LatentDiffusion):
    (first,), (second,) = (model("a", seed=1, variation_strength=0.5, **QUICK).recipes for _ in range(2))
    assert first.variation_seed is not None and first.variation_seed != second.variation_seed


def test_recipes_say_and_read_it_in_a1111s_words(model: LatentDiffusion):
    (recipe,) = model("apple", seed=1, variation_seed=9, variation_strength=0.25, **QUICK).recipes
    assert "Seed: 1, Variation seed: 9, Variation seed strength: 0.25, Size: 32x32" in recipe.parameters()
    read = read_a1111(recipe.parameters(), certain=True)
    assert read is not None and (read.values["variation_seed"], read.values["variation_strength"]) == (9, 0.25)
    (plain,) = model("apple", seed=1, variation_seed=9, **QUICK).recipes
    assert "Variation" not in plain.parameters() and plain == model("apple", seed=1, **QUICK).recipes[0]


def test_wraps_and_tasks_get_the_varied_noise(model: LatentDiffusion):
    seen: list[torch.Tensor] = []

    def wrap(denoise, walk):
        seen.append(walk.noise)
        return denoise

    given = torch.randn(1, *shape_of(model))
    request = Request(prompt="apple", seed=1, variation_seed=9, variation_strength=1.0, **QUICK)
    assert model.steps(request, wrap=wrap).result.images
    assert model.steps(Request(prompt="apple", **QUICK), wrap=wrap, latents=given).result.images
    assert torch.equal(seen[0], NoiseSource([9], shape_of(model))()) and torch.equal(seen[1], given)


def test_a_file_of_noise_gives_what_its_tensor_gives_and_its_recipe_repeats(model: LatentDiffusion, tmp_path: Path):
    noise = torch.randn(2, *shape_of(model))
    save_file({"latents": noise}, tmp_path / "noise.safetensors")
    file = tmp_path / "noise.safetensors"
    result = model("apple", latents=file, num_images_per_prompt=2, seed=3, batch_size=1, output_type="pil", **QUICK)
    tensor = model("apple", latents=noise, num_images_per_prompt=2, seed=3, batch_size=1, output_type="pil", **QUICK)
    assert not tensor.recipes and len(result.recipes) == 2
    for mine, theirs, recipe in zip(result.images, tensor.images, result.recipes, strict=True):
        assert mine.tobytes() == theirs.tobytes()
        again = Recipe.from_json(recipe.to_json(), "x.png").request()
        assert model.steps(again).result.images[0].tobytes() == mine.tobytes()
    save_file({"latents": noise + 1}, file)
    with pytest.raises(OSError, match="has changed since the picture was made"):
        model.steps(result.recipes[0].request())


def test_later_pictures_count_what_counts(tmp_path: Path):
    request = Request(seed=5)
    assert later(request, 2) == Request(seed=7)
    varied = replace(request, variation_seed=8, variation_strength=0.5)
    assert later(varied, 2) == replace(varied, variation_seed=10)
    assert later(replace(request, latents="a.npy#1"), 2) == Request(seed=7, latents="a.npy#3")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variation_strength": 0.5, "generator": torch.Generator()}, "give a seed, not a generator"),
        ({"variation_strength": 0.5, "latents": "a.npy"}, "which latents replace; give one"),
        ({"variation_strength": 1.5}, "variation_strength=1.5 is not possible; use 0 to 1"),
        ({"variation_seed": -1}, "variation_seed=-1 is not possible"),
        ({"latents": torch.zeros(1, 2, 3, 3)}, r"latents are \(1, 2, 3, 3\); this call needs"),
        ({"latents": "nowhere.npy"}, "nowhere.npy is missing"),
    ],
)
def test_what_excludes_itself_is_named(model: LatentDiffusion, options: dict, words: str):
    with pytest.raises((ValueError, OSError), match=words):
        model("apple", **options, **QUICK)
