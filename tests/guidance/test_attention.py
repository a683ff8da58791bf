"""PAG and SEG against diffusers; hooks that act on their part of the batch alone."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPAGPipeline
from diffusers.hooks.smoothed_energy_guidance_utils import _gaussian_blur_2d
from listener import parts
from unet_twins import SD1, inputs, run_twin, twins

from conditioning.bundle import Conditioning
from ldm import LatentDiffusion
from ldm.denoiser import NetworkDenoiser
from ldm.guidance import PerturbedAttentionGuidance, SmoothedEnergyGuidance
from ldm.guidance.smoothed_energy import blur
from ldm.networks.unet import UNet
from ldm.process import DiscreteVP

PROMPTS, NEGATIVE = ["a red apple", "dark sea"], "blue"
METHODS = {"pag": PerturbedAttentionGuidance, "seg": SmoothedEnergyGuidance}


def unet_denoiser(size: tuple[int, int] = (16, 16)):
    """diffusers' network, ours with its weights as a denoiser, and an x (3, 4, *size)."""
    ours, theirs = twins(SD1)
    x, _, conditioning = inputs(SD1, size)
    denoise = NetworkDenoiser(ours.requires_grad_(False), DiscreteVP(), "epsilon", conditioning)
    return theirs.requires_grad_(False), denoise, x


def self_attentions(theirs, part: str):
    """diffusers' self-attention modules below a block."""
    return [module for name, module in theirs.named_modules() if part in name and name.endswith("attn1")]


@pytest.mark.parametrize(
    ("scale", "pag_scale", "rescale", "layers"),
    [(5.0, 3.0, 0.0, ["mid"]), (1.0, 2.0, 0.0, ["mid"]), (4.0, 3.0, 0.7, ["mid", "up_blocks.1"])],
)
def test_pag_draws_what_diffusers_draws(
    tiny_folder: Path, scale: float, pag_scale: float, rescale: float, layers: list[str]
):
    theirs = StableDiffusionPAGPipeline.from_pretrained(tiny_folder, pag_applied_layers=layers)
    theirs.scheduler = DDIMScheduler.from_config(theirs.scheduler.config, timestep_spacing="trailing")
    theirs.set_progress_bar_config(disable=True)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    drawn = {
        amount: theirs(
            PROMPTS,
            negative_prompt=[NEGATIVE] * 2,
            latents=latents,
            num_inference_steps=5,
            guidance_scale=scale,
            guidance_rescale=rescale,
            pag_scale=amount,
            output_type="pt",
        ).images
        for amount in (pag_scale, 1e-9)
    }
    assert (drawn[pag_scale] - drawn[1e-9]).abs().max() > 0.003  # it does show
    pictures = LatentDiffusion.from_pretrained(tiny_folder)(
        PROMPTS,
        negative_prompt=NEGATIVE,
        latents=latents,
        num_inference_steps=5,
        guidance_scale=scale,
        guidance_rescale=rescale,
        guidance_options={"pag_scale": pag_scale, "pag_applied_layers": layers},
        sampler="ddim",
        schedule="trailing",
        output_type="pt",
    ).images
    torch.testing.assert_close(pictures, drawn[pag_scale], rtol=0, atol=1e-4)


def test_pag_is_the_paper_on_the_network_output():
    theirs, denoise, x = unet_denoiser()
    for attention in self_attentions(theirs, "mid_block"):  # identity map: the values, through the output projection
        attention.forward = lambda tokens, *args, attention=attention, **kwargs: attention.to_out[0](
            attention.to_v(tokens)
        )
    worse = run_twin(theirs, x, torch.full((3,), 500.0), denoise.conditioning)
    plain = denoise(x, 500.0).eps
    got = PerturbedAttentionGuidance(denoise, 3.0)(x, 500.0).eps
    torch.testing.assert_close(got, plain + 3 * (plain - worse), rtol=0, atol=1e-4)


# diffusers 0.42.1 takes its two branches the wrong way round (a Gaussian above the threshold, the mean below); with the
# threshold out of the way each branch is right by itself.
@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.5, 100.0])
@pytest.mark.parametrize("side", [1, 2, 7, 8])
def test_blur_is_diffusers_gaussian(side: int, sigma: float):
    q = torch.randn(2, 3, side * side, 5, generator=torch.Generator().manual_seed(0))
    length = math.ceil(6 * sigma) + 1 - math.ceil(6 * sigma) % 2
    flat = q.transpose(1, 2).flatten(2)
    wanted = _gaussian_blur_2d(flat.clone(), length, sigma, -1.0).unflatten(2, (3, 5)).transpose(1, 2)
    torch.testing.assert_close(blur(q, side, side, sigma), wanted, rtol=1e-5, atol=1e-5)


def test_endless_blur_is_the_mean():
    q = torch.randn(2, 3, 24, 5)
    wanted = _gaussian_blur_2d(q[:, 0, :16].clone(), 9, 1e5, 1e9)
    torch.testing.assert_close(blur(q[:, :1, :16], 4, 4, 1e5)[:, 0], wanted)
    torch.testing.assert_close(blur(q, 6, 4, math.inf), q.mean(2, keepdim=True).expand_as(q))


def test_blur_knows_height_from_width():
    rows = torch.arange(3.0).repeat_interleave(8)[None, None, :, None]  # constant along a row of 8
    blurred = blur(rows, 3, 8, 0.8).reshape(3, 8)
    assert torch.allclose(blurred, blurred[:, :1].expand(3, 8)) and not torch.allclose(blurred[0], blurred[1])
    assert blurred[0, 0] > 0


@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_seg_is_diffusers_network_with_blurred_queries(sigma: float):
    theirs, denoise, x = unet_denoiser()
    threshold = 1e9 if sigma == math.inf else -1.0
    for attention in self_attentions(theirs, "down_blocks.1"):
        attention.to_q.register_forward_hook(
            lambda module, inputs, q: _gaussian_blur_2d(q, 7, min(sigma, 1e5), threshold)
        )
    worse = run_twin(theirs, x, torch.full((3,), 500.0), denoise.conditioning)
    plain = denoise(x, 500.0).eps
    assert (plain - worse).abs().max() > 1e-4
    got = SmoothedEnergyGuidance(denoise, 3.0, "down_blocks.1", sigma)(x, 500.0).eps
    torch.testing.assert_close(got, plain + 3 * (plain - worse), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(16, 24), (10, 14), (9, 16)], ids=str)
def test_seg_finds_the_size_of_every_layer(size: tuple[int, int]):
    _, denoise, x = unet_denoiser(size)
    got = SmoothedEnergyGuidance(denoise, 3.0, ["blocks", "mid"], 1.0)(x, 500.0)
    assert torch.isfinite(got.x0).all() and not torch.equal(got.x0, denoise(x, 500.0).x0)


@pytest.mark.parametrize("word", METHODS)
def test_scale_zero_is_the_plain_network_in_one_pass(word: str):
    _, denoise, x = unet_denoiser()
    got, wanted = METHODS[word](denoise, 0.0)(x, 500.0), denoise(x, 500.0)
    assert torch.equal(got.x0, wanted.x0) and torch.equal(got.eps, wanted.eps)


@pytest.mark.parametrize("word", METHODS)
def test_a_hook_changes_its_own_part_of_the_batch_alone(word: str):
    _, denoise, x = unet_denoiser()
    got, wanted = METHODS[word](denoise, 3.0)(x, 500.0), denoise(x, 500.0)
    assert got.conditional is not None
    torch.testing.assert_close(got.conditional.x0, wanted.x0, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("word", METHODS)
def test_a_hook_works_beside_masked_tokens(word: str):
    _, denoise, x = unet_denoiser()
    own = denoise.conditioning
    masked = replace(own, mask=torch.ones(3, 5, dtype=torch.bool))
    more = Conditioning.join_tokens([masked, Conditioning(tokens=own.tokens, mask=~masked.mask)])
    same = NetworkDenoiser(denoise.network, denoise.process, "epsilon", more)
    got, expected = METHODS[word](same, 3.0)(x, 500.0), METHODS[word](denoise, 3.0)(x, 500.0)
    torch.testing.assert_close(got.x0, expected.x0, rtol=1e-4, atol=1e-4)


def test_unknown_layers_and_networks_without_attention_are_named():
    _, denoise, _ = unet_denoiser()
    with pytest.raises(ValueError, match=r"pag_applied_layers='mid_blok' names no self-attention.*mid_block"):
        PerturbedAttentionGuidance(denoise, 3.0, ["mid_blok"])
    with pytest.raises(ValueError, match=r"seg_applied_layers='\(' is no regular expression"):
        SmoothedEnergyGuidance(denoise, 3.0, ["("])
    with pytest.raises(ValueError, match="pag_applied_layers is empty"):
        PerturbedAttentionGuidance(denoise, 3.0, [])
    with pytest.raises(ValueError, match="seg_blur_sigma=0"):
        SmoothedEnergyGuidance(denoise, 3.0, blur_sigma=0)
    _, plain, _ = parts("vp")
    with pytest.raises(ValueError, match="pag_applied_layers='mid' names no self-attention"):
        PerturbedAttentionGuidance(plain, 3.0)


def test_layers_that_attend_to_the_tokens_alone_are_no_self_attention():
    network = UNet(replace(SD1, only_cross_attention=(True, False, False, False)))
    names = NetworkDenoiser(network, DiscreteVP(), "epsilon").self_attention_layers
    assert names and all(name.endswith("attn1") for name in names)
    assert not any(name.startswith(("down_blocks.0", "up_blocks.3")) for name in names)
