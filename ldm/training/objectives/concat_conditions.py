"""Conditions that lie beside the noisy latent as channels, made from the pictures while training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ldm.naming import look_up
from ldm.networks.unet import UNetConfig
from ldm.process import DiscreteVP
from ldm.training.diffusion.noising import draw_normal, draw_uniform
from ldm.training.objectives.edges import canny
from ldm.training.objectives.masks import random_mask

LOW_RESOLUTION_NOISE = DiscreteVP("scaled_linear", 0.0001, 0.02)
"""How low-resolution pictures are noised, as for Stable Diffusion's x4 upscaler."""


@dataclass(frozen=True)
class Source:
    """The inputs that a condition is made from.

    Attributes:
        pictures: `(B, 3, H, W)` in [-1, 1].
        size: height and width of the latents.
        generators: one CPU generator per sample, the only randomness.
        encode: pictures -> latents as the denoiser sees them, without sampling.
        noise_levels: how many levels a low-resolution picture may be noised to.
    """

    pictures: Tensor
    size: tuple[int, int]
    generators: Sequence[torch.Generator]
    encode: Callable[[Tensor], Tensor]
    noise_levels: int


@dataclass(frozen=True)
class Concat:
    """Channels `(B, c, h, w)`, and a label `(B,)` per sample where the condition says more than channels can."""

    channels: Tensor
    labels: Tensor | None = None


def inpainting(source: Source) -> Concat:
    """A random mask (1: to be painted) and the latents of the picture with grey under it.

    The order of channels is that of Stable Diffusion's inpainting model: mask, then masked latents.
    """
    height, width = source.pictures.shape[2:]
    masks = torch.stack([random_mask(height, width, generator) for generator in source.generators])
    masks = masks.to(source.pictures.device)
    kept = source.encode(source.pictures * (1 - masks))
    return Concat(torch.cat([F.interpolate(masks, source.size, mode="nearest").to(kept.dtype), kept], dim=1))


def low_resolution(source: Source) -> Concat:
    """The picture at the size of the latents, noised to a random level that is the label.

    Noise augmentation (Ho et al. 2022, "Cascaded diffusion models", section 4.2) as in Stable Diffusion's x4 upscaler.
    """
    small = F.interpolate(source.pictures, source.size, mode="bicubic", antialias=True, align_corners=False)
    levels = (draw_uniform(source.generators) * source.noise_levels).long()
    noise = draw_normal(small.shape[1:], source.generators).to(small.device)
    return Concat(LOW_RESOLUTION_NOISE.add_noise(small.clamp(-1, 1), noise, levels), levels.to(small.device))


def edge(source: Source) -> Concat:
    """The share of edge pixels under each cell of the latent, from -1 (none) to 1 (all).

    One channel in that range is what a depth model has too, so what draws with a depth map draws with an edge map.
    """
    return Concat(2 * F.interpolate(canny(source.pictures), source.size, mode="area") - 1)


CONCAT_CONDITIONS: dict[str, Callable[[Source], Concat]] = {
    "inpainting": inpainting,
    "low_resolution": low_resolution,
    "edge": edge,
}

_CHANNELS: dict[str, Callable[[int], int]] = {
    "": lambda latent: 0,
    "inpainting": lambda latent: 1 + latent,
    "low_resolution": lambda latent: 3,
    "edge": lambda latent: 1,
}


def check_concat(name: str, unet: UNetConfig, latent_channels: int, noise_levels: int) -> None:
    """Refuse a network that has no place for the condition `name` ("" for none).

    Raises:
        ValueError: `unet.in_channels` or `unet.num_classes` does not fit; says which value would.
    """
    wanted = latent_channels + look_up("diffusion.concat", name, _CHANNELS)(latent_channels)
    if unet.in_channels != wanted:
        raise ValueError(f"unet.in_channels={unet.in_channels} does not fit diffusion.concat={name!r}; use {wanted}")
    if name == "low_resolution" and (unet.num_classes or 0) < noise_levels:
        raise ValueError(
            f"unet.num_classes={unet.num_classes} is too few for diffusion.concat='low_resolution', which tells one of "
            f"diffusion.noise_levels={noise_levels} as a label; use {noise_levels} or more"
        )
