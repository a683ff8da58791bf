"""Restart sampling: add noise up to an earlier level and denoise down again, some times over."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, pairwise

import torch
from torch import Tensor

from ldm.denoiser import Denoiser
from ldm.process import Process
from ldm.samplers.edm import heun, renoise
from ldm.samplers.step import Noise, Step, levels_at, levels_of

RHO = 7.0
"""Of the levels on the way down again: Karras et al. 2022, eq. 5."""


def restart(
    denoise: Denoiser,
    x: Tensor,
    grid: Tensor,
    noise: Noise,
    *,
    restarts: int = 1,
    restart_steps: int = 9,
    s_tmin: float = 0.1,
    s_tmax: float = 2.0,
    s_noise: float = 1.003,
) -> Iterator[Step]:
    """`heun` with the stretch from s_tmax to s_tmin repeated (Xu et al. 2023, "Restart Sampling", alg. 1). Stochastic.

    At the point of the grid nearest s_tmin (both are of sigma / alpha), noise is added up to s_tmax and removed in
    `restart_steps` steps of their own, `restarts` times; then the walk goes on. The noise forgets the errors that were
    made before it. `Step.total` counts the added steps. A grid without a point between 0 and s_tmax is just walked.

    Args:
        denoise: the denoiser; two calls a step, see `heun`.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: drawn from once a restart.
        restarts: how often the stretch is repeated, the paper's K.
        restart_steps: steps of each repetition, the paper's N.
        s_tmin: lower end of the stretch, > 0.
        s_tmax: upper end of the stretch, > s_tmin.
        s_noise: scale of the added noise.

    Raises:
        ValueError: an impossible stretch.
    """
    process, index = denoise.process, count()
    walks = _walks(process, grid, restarts, restart_steps, s_tmin, s_tmax)
    total = sum(len(walk) - 1 for walk in walks)
    for before, walk in pairwise([grid[:1], *walks]):
        if walk[0] > before[-1]:
            low, high = levels_of(process, torch.stack([before[-1], walk[0]]))
            x = renoise(x, low, high, noise, s_noise)
        for step in heun(denoise, x, walk, noise):
            x = step.x
            yield replace(step, index=next(index), total=total)


def _walks(
    process: Process, grid: Tensor, restarts: int, restart_steps: int, s_tmin: float, s_tmax: float
) -> list[Tensor]:
    """The grid cut near s_tmin, with the repeated stretches between."""
    if not 0 < s_tmin < s_tmax:
        raise ValueError(f"s_tmin={s_tmin} and s_tmax={s_tmax} must satisfy 0 < s_tmin < s_tmax")
    rhos = [(math.exp(-level.lam), i) for i, level in enumerate(levels_of(process, grid)) if level.sigma > 0]
    inside = [(abs(math.log(rho / s_tmin)), i, rho) for rho, i in rhos if i > 0 and rho < s_tmax]
    if not inside or restarts < 1 or restart_steps < 1:
        return [grid]
    _, low, bottom = min(inside)
    top = math.exp(-levels_at(process, [-math.log(s_tmax)])[0].lam)
    ramp = torch.linspace(top ** (1 / RHO), bottom ** (1 / RHO), restart_steps + 1, dtype=torch.float64)
    stretch = torch.cat([process.time_of_lambda(-RHO * ramp[:-1].log()), grid[low : low + 1]])
    return [grid[: low + 1], *[stretch] * restarts, grid[low:]]
