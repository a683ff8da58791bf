"""Composed prompts (`a AND b :0.7`): the formula, its cost, and what of it is the plain prompt."""

import math

import pytest
import torch
from listener import EMPTY, NEGATIVE, PROCESSES, PROMPT, identical, parts, same

from conditioning.bundle import Conditioning
from ldm.denoiser import NetworkDenoiser
from ldm.guidance import ClassifierFreeGuidance, Composition, GuidanceSettings, Region, Regions, guide

OTHER = Conditioning(pooled=torch.tensor([[2.0, 0.5], [-1.0, 1.0]]))


def test_one_prompt_of_weight_one_is_the_plain_prompt_to_the_bit():
    network, denoise, x = parts("vp")
    composed = Composition(denoise, NEGATIVE, [(PROMPT, 1.0)])
    assert identical(composed(x, 500.0), denoise(x, 500.0))
    settings = GuidanceSettings(guidance_scale=4.0)
    assert identical(guide(composed, NEGATIVE, settings)(x, 500.0), guide(denoise, NEGATIVE, settings)(x, 500.0))
    assert network.batches == [2, 2, 4, 4]


@pytest.mark.parametrize("name", PROCESSES)
def test_guided_composition_is_its_formula_in_one_call(name: str):
    network, denoise, x = parts(name)
    t = PROCESSES[name].time_of_index(700.0).item()
    negative, first, second = denoise.predict(x, t, [NEGATIVE, PROMPT, OTHER])
    network.batches.clear()
    composed = Composition(denoise, NEGATIVE, [(PROMPT, 1.0), (OTHER, -0.7)])
    got = ClassifierFreeGuidance(composed, NEGATIVE, 4.0)(x, t)
    assert network.batches == [6]  # the negative once
    wanted = negative.x0 + 4 * (first.x0 - negative.x0) - 4 * 0.7 * (second.x0 - negative.x0)
    torch.testing.assert_close(got.x0, wanted, rtol=1e-4, atol=1e-4)
    wanted = negative.eps + 4 * (first.eps - negative.eps) - 4 * 0.7 * (second.eps - negative.eps)
    torch.testing.assert_close(got.eps, wanted, rtol=1e-4, atol=1e-4)


def test_the_same_prompt_in_parts_is_the_whole_prompt_without_the_negative():
    network, denoise, x = parts("vp")
    same(
        Composition(denoise, NEGATIVE, [(PROMPT, 0.3), (OTHER, 0.0), (PROMPT, 0.7)])(x, 500.0), denoise(x, 500.0), 1e-6
    )
    assert network.batches == [4, 2]


def test_regions_lie_over_a_composition():
    _, denoise, x = parts("vp")
    composed = Composition(denoise, NEGATIVE, [(PROMPT, 1.0), (OTHER, 1.0)])
    left = torch.cat([torch.ones(6, 3), torch.zeros(6, 3)], dim=1)
    mixed = Regions(composed, [Region(EMPTY, left)])(x, 500.0)
    torch.testing.assert_close(mixed.x0[..., :3], denoise.predict(x, 500.0, [EMPTY])[0].x0[..., :3])
    torch.testing.assert_close(mixed.x0[..., 3:], composed(x, 500.0).x0[..., 3:])


def test_compositions_that_make_no_sense_are_refused():
    _, denoise, _ = parts("vp")
    with pytest.raises(ValueError, match="prompts is empty"):
        Composition(denoise, NEGATIVE, [])
    with pytest.raises(ValueError, match="weight of a prompt=nan"):
        Composition(denoise, NEGATIVE, [(PROMPT, math.nan)])
    with pytest.raises(ValueError, match="a prompt has batch size 4"):
        Composition(denoise, NEGATIVE, [(PROMPT.repeat(2), 1.0)])
    unconditional = NetworkDenoiser(denoise.network, denoise.process, "v_prediction")
    with pytest.raises(ValueError, match="needs a denoiser with a conditioning"):
        Composition(unconditional, NEGATIVE, [(PROMPT, 1.0)])
