"""Regional prompts: masks decide which prompt a pixel hears."""

import pytest
import torch
from listener import EMPTY, NEGATIVE, PROCESSES, PROMPT, Listener, identical, parts, same, start
from torch import Tensor
from unet_twins import SD1, inputs

from ldm.denoiser import NetworkDenoiser
from ldm.guidance import ClassifierFreeGuidance, GuidanceSettings, Region, Regions, guide
from ldm.networks.unet import UNet
from ldm.process import DiscreteVP

FULL = torch.ones(6, 6)
LEFT = torch.cat([torch.ones(6, 3), torch.zeros(6, 3)], dim=1)


def test_one_full_mask_is_the_plain_denoiser_to_the_bit():
    network, _, x = parts("vp")
    base = NetworkDenoiser(network, PROCESSES["vp"], "v_prediction", EMPTY)
    plain = NetworkDenoiser(network, PROCESSES["vp"], "v_prediction", PROMPT)
    regions = Regions(base, [Region(PROMPT, FULL)])
    assert identical(regions(x, 500.0), plain(x, 500.0))
    settings = GuidanceSettings(guidance_scale=4.0)
    assert identical(guide(regions, NEGATIVE, settings)(x, 500.0), guide(plain, NEGATIVE, settings)(x, 500.0))
    assert network.batches == [2, 2, 4, 4]


@pytest.mark.parametrize("name", PROCESSES)
def test_two_halves_of_the_same_prompt_are_the_whole(name: str):
    _, denoise, x = parts(name)
    t = PROCESSES[name].time_of_index(700.0).item()
    regions = Regions(denoise, [Region(PROMPT, LEFT), Region(PROMPT, 1 - LEFT)])
    same(regions(x, t), denoise(x, t), 1e-6)
    same(ClassifierFreeGuidance(regions, NEGATIVE, 4.0)(x, t), ClassifierFreeGuidance(denoise, NEGATIVE, 4.0)(x, t))


def test_each_pixel_hears_the_prompt_of_its_mask():
    network = Listener(kernel=1).requires_grad_(False)
    left, right, base = (NetworkDenoiser(network, DiscreteVP(), "epsilon", c) for c in (PROMPT, NEGATIVE, EMPTY))
    x = start()
    mixed = Regions(base, [Region(PROMPT, LEFT), Region(NEGATIVE, 1 - LEFT)])(x, 500.0)
    torch.testing.assert_close(mixed.x0[..., :3], left(x, 500.0).x0[..., :3])
    torch.testing.assert_close(mixed.eps[..., 3:], right(x, 500.0).eps[..., 3:])
    assert (left(x, 500.0).x0 - right(x, 500.0).x0).abs().max() > 0.1


def test_what_no_region_covers_hears_the_whole_prompt():
    network, base, x = parts("vp")
    mixed = Regions(base, [Region(NEGATIVE, LEFT)])(x, 500.0)
    assert network.batches == [4]
    negative, own = base.predict(x, 500.0, [NEGATIVE, None])
    torch.testing.assert_close(mixed.x0[..., :3], negative.x0[..., :3])
    torch.testing.assert_close(mixed.x0[..., 3:], own.x0[..., 3:])


def test_overlaps_share_and_soft_masks_blend():
    _, base, x = parts("vp")
    negative, empty, own = base.predict(x, 500.0, [NEGATIVE, EMPTY, None])
    both = Regions(base, [Region(NEGATIVE, FULL), Region(EMPTY, FULL)])(x, 500.0)
    torch.testing.assert_close(both.x0, (negative.x0 + empty.x0) / 2, rtol=1e-5, atol=1e-5)
    soft = Regions(base, [Region(NEGATIVE, 0.25 * FULL)])(x, 500.0)
    torch.testing.assert_close(soft.eps, 0.25 * negative.eps + 0.75 * own.eps, rtol=1e-5, atol=1e-5)


def test_masks_of_any_size_and_one_for_each_picture():
    _, base, x = parts("vp")
    large = torch.zeros(2, 48, 48)
    large[0, :, :24] = 1
    large[1, :, 24:] = 1
    got = Regions(base, [Region(NEGATIVE, large)])(x, 500.0)
    for i, mask in enumerate((LEFT, 1 - LEFT)):
        wanted = Regions(base, [Region(NEGATIVE, mask)])(x, 500.0)
        torch.testing.assert_close(got.x0[i], wanted.x0[i])


def test_pag_reaches_every_region_in_the_same_call():
    torch.manual_seed(0)
    network = UNet(SD1).requires_grad_(False)
    x, _, conditioning = inputs(SD1)
    _, _, other = inputs(SD1)
    batches: list[int] = []
    network.register_forward_pre_hook(lambda module, given: batches.append(len(given[0])))
    denoise = NetworkDenoiser(network, DiscreteVP(), "v_prediction", conditioning)
    left = torch.zeros(16, 16)
    left[:, :8] = 1
    again = other[:]  # the same words once more: one object would be one pass
    regions = Regions(denoise, [Region(other, left), Region(again, 1 - left)])
    settings = GuidanceSettings(guidance_scale=4.0, pag_scale=3.0)
    got, wanted = (guide(each, conditioning, settings)(x, 500.0) for each in (regions, denoise))
    assert batches == [15, 9]  # the negative, two regions, and both again without structure
    same(got, wanted, 1e-4)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(6), r"mask is \(6,\)"),
        (2 * FULL, "mask goes from 2 to 2"),
        (torch.full((6, 6), torch.nan), "mask goes from nan"),
        (torch.ones(3, 6, 6), "3 masks for 2 pictures"),
    ],
)
def test_masks_that_are_none_are_refused(mask: Tensor, words: str):
    _, denoise, _ = parts("vp")
    with pytest.raises(ValueError, match=words):
        Regions(denoise, [Region(PROMPT, mask)])


def test_regions_need_regions_of_the_batch():
    _, denoise, _ = parts("vp")
    with pytest.raises(ValueError, match="regions is empty"):
        Regions(denoise, [])
    with pytest.raises(ValueError, match="a region has batch size 4, the prompt 2"):
        Regions(denoise, [Region(PROMPT.repeat(2), FULL)])
