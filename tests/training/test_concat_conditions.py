"""Conditions made from pictures while training: what is in which channel."""

import pytest
import torch
from diffusers import DDPMScheduler
from skimage.feature import canny as reference_canny
from torch.nn import functional as F

from ldm.networks.unet import UNetConfig
from ldm.training.batches.sample_order import generator_for
from ldm.training.objectives.concat_conditions import CONCAT_CONDITIONS, Source, check_concat
from ldm.training.objectives.edges import canny
from ldm.training.objectives.masks import random_mask


def _pictures(n: int = 3, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return F.interpolate(torch.rand(n, 3, 4, 4, generator=generator), (size, size), mode="bicubic").clamp(0, 1) * 2 - 1


def _encode(pictures: torch.Tensor) -> torch.Tensor:
    """Four channels at a quarter of the size."""
    return F.avg_pool2d(torch.cat([pictures, pictures[:, :1]], 1), 4)


def _source(pictures: torch.Tensor, first: int = 0, levels: int = 350) -> Source:
    generators = [generator_for(0, first + i, 1) for i in range(len(pictures))]
    return Source(pictures, (8, 8), generators, _encode, levels)


def test_inpainting_is_the_mask_then_the_latents_of_the_masked_picture():
    pictures = _pictures(40)
    concat = CONCAT_CONDITIONS["inpainting"](_source(pictures))
    assert concat.channels.shape == (40, 5, 8, 8) and concat.labels is None
    masks = torch.stack([random_mask(32, 32, generator_for(0, i, 1)) for i in range(40)])
    mask, kept = concat.channels[:, :1], concat.channels[:, 1:]
    torch.testing.assert_close(mask, F.interpolate(masks, (8, 8)))
    torch.testing.assert_close(kept, _encode(torch.where(masks == 1, torch.zeros(()), pictures)))
    untouched = F.max_pool2d(masks, 4) == 0
    torch.testing.assert_close(kept * untouched, _encode(pictures) * untouched)
    assert (kept * (F.avg_pool2d(masks, 4) == 1)).abs().max() == 0, "nothing shows of what is to be painted"


def test_masks_are_zero_and_one_paint_something_and_a_quarter_paints_all():
    masks = torch.stack([random_mask(32, 24, generator_for(1, i)) for i in range(400)])
    assert masks.shape == (400, 1, 32, 24) and set(masks.unique().tolist()) == {0.0, 1.0}
    share = masks.mean((1, 2, 3))
    assert share.min() > 0
    assert 0.18 < (share == 1).double().mean() < 0.32
    assert share[share < 1].quantile(0.9) < 0.75 and 0.1 < share[share < 1].mean() < 0.5


def test_low_resolution_is_noised_as_diffusers_does_to_the_level_that_is_the_label():
    pictures = _pictures(64)
    concat = CONCAT_CONDITIONS["low_resolution"](_source(pictures, levels=200))
    levels = concat.labels
    assert levels.dtype == torch.int64 and 0 <= levels.min() < 20 and 180 <= levels.max() < 200
    small = F.interpolate(pictures, (8, 8), mode="bicubic", antialias=True).clamp(-1, 1)
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.0001, beta_end=0.02)
    silent = scheduler.add_noise(small, torch.zeros_like(small), levels)
    noise = (concat.channels - silent) / (1 - scheduler.alphas_cumprod[levels]).sqrt()[:, None, None, None]
    assert noise.mean().abs() < 0.05 and abs(noise.std() - 1) < 0.05


def test_edges_are_scikit_images():
    """Up to the rounding of the gradient's direction: each map's pixels lie on or beside the other's."""
    pictures = _pictures(4, 64)
    pictures[:, :, 10:30, 20:50] = torch.tensor([1.0, -0.5, 0.2, -1.0])[:, None, None, None]
    found = canny(pictures)
    grey = (pictures / 2 + 0.5).mul(torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    wanted = torch.stack([torch.from_numpy(reference_canny(picture.numpy(), sigma=1.0)) for picture in grey])[:, None]
    inside = (..., slice(4, -4), slice(4, -4))  # which treat the border differently
    for one, other in ((found, wanted.float()), (wanted.float(), found)):
        beside = F.max_pool2d(other, 3, stride=1, padding=1)[inside]
        assert (one[inside] * beside).sum() / one[inside].sum() > 0.95
    assert found.sum() == pytest.approx(wanted.sum().item(), rel=0.15)


def test_a_box_has_edges_on_its_border_and_nowhere_else():
    picture = torch.full((1, 3, 32, 32), -1.0)
    picture[..., 8:24, 8:24] = 1.0
    edges = canny(picture)
    assert edges[..., 10:22, 10:22].sum() == 0 and edges[..., :6, :].sum() == 0
    assert (edges[0, 0, 16, 6:10].sum(), edges[0, 0, 6:10, 16].sum()) == (1, 1)
    assert canny(torch.zeros(1, 3, 16, 16)).sum() == 0


def test_edge_condition_is_the_share_of_edge_pixels_under_a_cell():
    concat = CONCAT_CONDITIONS["edge"](_source(_pictures()))
    torch.testing.assert_close(concat.channels, 2 * F.avg_pool2d(canny(_pictures()), 4) - 1)


@pytest.mark.parametrize("name", CONCAT_CONDITIONS)
def test_a_sample_gets_the_same_condition_in_any_batch(name):
    pictures = _pictures(5)
    whole = CONCAT_CONDITIONS[name](_source(pictures))
    alone = CONCAT_CONDITIONS[name](_source(pictures[3:4], first=3))
    torch.testing.assert_close(whole.channels[3:4], alone.channels)


@pytest.mark.parametrize(
    ("name", "channels", "classes"),
    [("", 4, None), ("inpainting", 9, None), ("low_resolution", 7, 350), ("edge", 5, 11)],
)
def test_a_network_must_have_the_channels_of_its_condition(name, channels, classes):
    check_concat(name, UNetConfig(in_channels=channels, num_classes=classes), 4, 350)
    with pytest.raises(ValueError, match=rf"unet.in_channels=8 does not fit diffusion.concat='{name}'; use {channels}"):
        check_concat(name, UNetConfig(in_channels=8, num_classes=classes), 4, 350)


def test_noise_levels_need_as_many_classes():
    with pytest.raises(ValueError, match=r"unet.num_classes=None is too few.*noise_levels=350.*use 350 or more"):
        check_concat("low_resolution", UNetConfig(in_channels=7), 4, 350)
