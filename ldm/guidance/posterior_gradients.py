"""Posterior sampling that follows a gradient of the measurement's error: DPS and RED-diff, as samplers."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ldm.denoiser import Denoiser, Prediction
from ldm.samplers import Noise, Step, levels_of

Residual = Callable[[Tensor], Tensor]
"""x0 (B, C, h, w) -> y - A x0, what its picture lacks of the measurement; differentiable."""
_RATE, _BETAS = 0.1, (0.9, 0.99)


def dps(
    denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise, *, residual: Residual, scale: float = 1.0
) -> Iterator[Step]:
    """Ancestral steps, and after each one down the gradient of |y - A x0(x)| (Chung et al. 2023, "DPS", algorithm 1).

    The gradient goes through the denoiser. The likelihood is a guess, and its scale is one for all levels, so samples
    are biased, the more the more noise the measurement has.

    Args:
        denoise: the denoiser; one call a step, and its gradient.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`; the paper takes 1,000.
        noise: drawn from once a step.
        residual: of the measurement.
        scale: zeta', 1 in the paper for blur, holes and enlargement.
    """
    levels = levels_of(denoise.process, grid)
    for index, (now, then) in enumerate(pairwise(levels)):
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            prediction = denoise(x, now.t)
            down = torch.autograd.grad(residual(prediction.x0).flatten(1).norm(dim=1).sum(), x)[0]
        x0, eps = prediction.x0.detach(), prediction.eps.detach()
        renewed = -math.expm1(2 * (now.lam - then.lam))
        if then.sigma > 0:
            eps = math.sqrt(1 - renewed) * eps + math.sqrt(renewed) * noise()
        x = then.alpha * x0 + then.sigma * eps - scale * down
        yield Step(index, len(levels) - 1, then.t, x, Prediction(x0, eps))


def red_diff(
    denoise: Denoiser,
    x: Tensor,
    grid: Tensor,
    noise: Noise,
    *,
    residual: Residual,
    start: Tensor | None = None,
    weight: float = 0.25,
) -> Iterator[Step]:
    """One picture on which measurement and denoiser agree, by Adam (Mardani et al. 2024, "RED-diff", algorithm 1).

    It goes down |y - A mu|^2 / 2 + weight (sigma / alpha) (eps(x) - noise) mu, with x = alpha mu + sigma noise: a mode
    rather than a sample, so there is next to no spread.

    Args:
        denoise: the denoiser; one call a step.
        x: `(B, C, h, w)`, which only says how many pictures there are.
        grid: descending times `(n + 1,)`; the paper takes 1,000.
        noise: drawn from once a step.
        residual: of the measurement.
        start: mu at the beginning, (1 or B, C, h, w); zeros by default.
        weight: of the denoiser, 0.25 in the paper.
    """
    levels = levels_of(denoise.process, grid)
    mu = torch.zeros_like(x) if start is None else start.expand_as(x).clone()
    adam = torch.optim.Adam([mu], lr=_RATE, betas=_BETAS)
    for index, (now, then) in enumerate(pairwise(levels)):
        added = noise()
        noisy = now.alpha * mu.detach() + now.sigma * added
        prediction = denoise(noisy, now.t)
        with torch.enable_grad():
            mu.requires_grad_()
            mu.grad = torch.autograd.grad(residual(mu).square().sum() / 2, mu)[0]
        if now.alpha > 0:  # pure noise says nothing of mu
            mu.grad += weight * now.sigma / now.alpha * (prediction.eps - added)
        adam.step()
        finished = mu.detach().clone()
        yield Step(index, len(levels) - 1, then.t, finished, Prediction(finished, prediction.eps))
