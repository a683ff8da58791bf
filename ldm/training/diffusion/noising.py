"""The noise that a denoiser is trained on, drawn sample by sample."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Generators = Sequence[torch.Generator]


def draw_normal(shape: Sequence[int], generators: Generators) -> Tensor:
    """Standard normal `(B, *shape)`, fp32 on the CPU, one CPU generator per sample."""
    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])


def draw_uniform(generators: Generators) -> Tensor:
    """Uniform in [0, 1), float64 `(B,)`."""
    return torch.stack([torch.rand((), generator=generator, dtype=torch.float64) for generator in generators])


def with_offset(noise: Tensor, generators: Generators, strength: float) -> Tensor:
    """Noise plus a constant per channel and sample, N(0, strength^2), so that mean colours are learned too.

    Guttenberg 2023, "Diffusion with offset noise".

    Args:
        noise: `(B, C, h, w)`.
        generators: one per sample.
        strength: deviation of the constants; 0 leaves the noise as it is and draws nothing.
    """
    if strength == 0:
        return noise
    return noise + strength * draw_normal((noise.shape[1], 1, 1), generators).to(noise.device)


def with_pyramid(noise: Tensor, generators: Generators, discount: float) -> Tensor:
    """Noise plus coarser noise of halved resolutions, each `discount` times weaker, scaled back to variance 1.

    Whitaker 2023, "Multi-resolution noise for diffusion model training"; here the levels are exact halves enlarged
    without smoothing, so that every cell has variance 1 and the covariance of two is known.

    Args:
        noise: `(B, C, h, w)`.
        generators: one per sample.
        discount: weight of each level relative to the finer one; 0 leaves the noise as it is and draws nothing.
    """
    if discount == 0:
        return noise
    channels, height, width = noise.shape[1:]
    total, variance, cells, weight = noise, 1.0, 1, 1.0
    while cells < max(height, width):
        cells, weight = 2 * cells, weight * discount
        coarse = draw_normal((channels, -(-height // cells), -(-width // cells)), generators).to(noise.device)
        enlarged = F.interpolate(coarse, scale_factor=float(cells), mode="nearest")
        total = total + weight * enlarged[..., :height, :width]
        variance += weight**2
    return total / variance**0.5


def perturbed(noise: Tensor, generators: Generators, strength: float) -> Tensor:
    """The noise that the network's input gets while its target stays `noise`: noise + strength N(0, I).

    Input perturbation (Ning et al. 2023, algorithm 1; 0.1 there).

    Args:
        noise: `(B, C, h, w)`.
        generators: one per sample.
        strength: deviation of the perturbation; 0 draws nothing.
    """
    if strength == 0:
        return noise
    return noise + strength * draw_normal(noise.shape[1:], generators).to(noise.device)
