"""Feature caching of a drawing: what it costs, that walks do not meet, and what it refuses."""

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldm import LatentDiffusion
from ldm.networks.attention import Attending

STEPS = 7


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_folder, device="cpu", engine="eager")


def latents(model: LatentDiffusion, **settings: object) -> Tensor:
    options: dict[str, object] = {"prompt": "apple", "seed": 3, "num_inference_steps": STEPS, "guidance_scale": 3.0}
    images: Tensor = model(**options | settings, output_type="latent").images  # type: ignore[arg-type]
    return images


@pytest.mark.parametrize(("sampler", "evaluations"), [("ddim", STEPS), ("heun", 2 * STEPS - 1)])
def test_the_deep_part_runs_at_every_third_evaluation(model: LatentDiffusion, sampler: str, evaluations: int) -> None:
    runs: list[int] = []
    hook = model.unet.mid_block.register_forward_pre_hook(lambda module, given: runs.append(len(given[0])))
    latents(model, sampler=sampler)
    assert len(runs) == evaluations
    runs.clear()
    latents(model, sampler=sampler, cache_options={"deepcache": 3})
    hook.remove()
    assert runs == [2] * math.ceil(evaluations / 3)


def test_off_is_plain_and_walks_do_not_meet(model: LatentDiffusion) -> None:
    """Other prompts before and beside a walk leave its picture alone, bit for bit."""
    options = {"cache_options": {"deepcache": 3}}
    plain = latents(model)
    assert torch.equal(latents(model, cache_options={"deepcache": 1, "first_block": 0}), plain)
    expected = {prompt: latents(model, prompt=prompt, **options) for prompt in ("apple", "dark sea")}
    assert not torch.equal(expected["apple"], plain)
    with ThreadPoolExecutor(2) as pool:
        prompts = ["apple", "dark sea"] * 3
        drawn = pool.map(lambda each: latents(model, prompt=each, **options), prompts)
        for prompt, got in zip(prompts, drawn, strict=True):
            assert torch.equal(got, expected[prompt])


def as_it_is(layer: Attending, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    return layer.attend(q, k, v, mask)


def test_a_picture_of_a_batch_is_the_one_drawn_alone(model: LatentDiffusion) -> None:
    for options in ({"deepcache": 2}, {"first_block": 0.3}):
        together = latents(model, prompt=["apple", "dark sea"], cache_options=options)
        alone = [
            latents(model, prompt=p, seed=3 + i, cache_options=options) for i, p in enumerate(("apple", "dark sea"))
        ]
        torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-3)


def test_perturbed_attention_and_the_interval_have_features_of_their_own(model: LatentDiffusion) -> None:
    """A branch that enters in the middle is computed, not taken from another one."""
    guidance = {"pag_scale": 2.0, "guidance_interval": [0.3, 0.8]}
    runs: list[int] = []
    hook = model.unet.mid_block.register_forward_pre_hook(lambda module, given: runs.append(len(given[0])))
    cached = latents(model, guidance_options=guidance, cache_options={"deepcache": 100})
    hook.remove()
    assert runs == [1, 3]
    assert torch.isfinite(cached).all()


def test_the_negative_prompt_is_left_out_where_nothing_needs_it(model: LatentDiffusion) -> None:
    rows: list[int] = []
    hook = model.unet.mid_block.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    latents(model, sampler="ddim", guidance_options={"guidance_interval": "sdxl", "guidance_reuse": 2})
    hook.remove()
    assert len(rows) == STEPS and rows[0] == 1
    assert set(rows[1:]) == {1, 2} and all(1 in pair for pair in pairwise(rows))


def test_recipes_name_what_is_on(model: LatentDiffusion) -> None:
    drawn = model("apple", seed=0, num_inference_steps=1, cache_options={"deepcache": 2, "deepcache_branch": 0})
    assert drawn.recipes[0].cache_options == {"deepcache": 2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cache_options": {"deepcash": 2}}, "unknown cache option 'deepcash'; did you mean 'deepcache'"),
        ({"cache_options": {"deepcache": 2.5}}, "cache option deepcache=2.5 must be a whole number"),
        ({"cache_options": {"deepcache": 2}, "tile_size": 16}, "cache_options and tile_size exclude each other"),
        (
            {
                "cache_options": {"deepcache": 2},
                "attention_hook": lambda layer, q, k, v, mask: layer.attend(q, k, v, mask),
            },
            "cache_options skip attention that a hook has to see",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(model: LatentDiffusion, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        latents(model, **{"width": 32, "height": 32, **settings})
