"""Restart sampling: go back up a stretch of noise and walk it down again."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ldm.denoiser import Denoiser
from ldm.samplers.edm import heun, renoise
from ldm.samplers.step import Noise, Step, level_at, levels_of

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
        restarts, restart_steps: the paper's K and N.
        s_tmin, s_tmax: the stretch; s_tmax at most the process's start.
        s_noise: scale of the added noise.
    """
    rhos = [(math.exp(-level.lam), i) for i, level in enumerate(levels_of(denoise.process, grid)) if level.sigma > 0]
    inside = [(abs(math.log(rho / s_tmin)), i) for rho, i in rhos if i > 0 and rho < s_tmax]
    low = min(inside)[1] if inside and restart_steps > 0 else len(grid) - 1
    walks = [grid[: low + 1]]
    if low < len(grid) - 1:
        bottom, top = levels_of(denoise.process, grid[low : low + 1])[0], level_at(denoise.process, -math.log(s_tmax))
        ends = torch.tensor([top.sigma / top.alpha, bottom.sigma / bottom.alpha], dtype=torch.float64) ** (1 / RHO)
        ramp = torch.linspace(0, 1, restart_steps + 1, dtype=torch.float64)
        again = denoise.process.time_of_lambda(-RHO * torch.lerp(ends[0], ends[1], ramp).log())
        walks += [torch.cat([again[:-1], grid[low : low + 1]])] * restarts + [grid[low:]]
    index, total = 0, sum(len(walk) - 1 for walk in walks)
    for i, walk in enumerate(walks):
        if 0 < i <= restarts and len(walks) > 1:
            x = renoise(x, bottom, top, noise, s_noise)
        for step in heun(denoise, x, walk, noise):
            x = step.x
            yield replace(step, index=index, total=total)
            index += 1
