"""Solvers of the reverse stochastic differential equation; their noise walks along a path that n does not change.

With `noise.between`, the pictures of one seed at 20, 40 and 80 steps approach each other.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from ldm.denoiser import Denoiser
from ldm.samplers.ancestral import ancestral_shares, exponential_step
from ldm.samplers.step import Noise, NoiseLevel, Step, levels_at, levels_of

SOLVER_TYPES = ("midpoint", "heun")
"""How `dpmpp_2m_sde` carries x0 on between two steps."""


def sde_shares(now: NoiseLevel, then: NoiseLevel, eta: float) -> tuple[float, float]:
    """(k, sqrt(1 - k^2)) with k = e^(-eta h), h the step in lambda: the share of the old noise after the exact SDE.

    Raises:
        ValueError: eta below 0.
    """
    if eta < 0:
        raise ValueError(f"eta={eta} must not be negative; use 0 (deterministic) to 1")
    decay = eta * (then.lam - now.lam) if eta > 0 else 0.0
    return math.exp(-decay), math.sqrt(-math.expm1(-2 * decay))


def noisy_step(
    x: Tensor,
    now: NoiseLevel,
    then: NoiseLevel,
    denoised: Tensor,
    shares: tuple[float, float],
    s_noise: float,
    noise: Noise,
) -> Tensor:
    """`exponential_step` and the noise of the stretch that it covers."""
    kept, fresh = shares
    x = exponential_step(x, now, then, denoised, kept)
    if then.sigma * fresh * s_noise > 0:
        x = x + then.sigma * fresh * s_noise * noise.between(now.progress, then.progress)
    return x


def dpmpp_sde(
    denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0, r: float = 0.5
) -> Iterator[Step]:
    """DPM-Solver++(2S) with noise in both stages (k-diffusion's `sample_dpmpp_sde`). Stochastic, two calls a step.

    x0 is evaluated again at the fraction r of the step in lambda; D = (1 - 1 / (2r)) x0 + x0_r / (2r). A step that
    begins at alpha = 0 or ends at sigma = 0 is of order 1 with one call. Order 2 at eta = 0.

    Args:
        denoise: the denoiser.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: its path gives the increment of each stage.
        eta: 0 (deterministic) to 1 (the reverse SDE).
        s_noise: scale of the noise.
        r: in (0, 1].

    Raises:
        ValueError: eta below 0, r outside (0, 1].
    """
    if not 0 < r <= 1:
        raise ValueError(f"r={r} must be above 0 and at most 1")
    levels = levels_of(denoise.process, grid)
    stages = levels_at(denoise.process, [now.lam + r * (then.lam - now.lam) for now, then in pairwise(levels)])
    for index, (now, then, stage) in enumerate(zip(levels, levels[1:], stages, strict=False)):
        prediction = denoise(x, now.t)
        denoised = prediction.x0
        if 0 < then.lam - now.lam < math.inf:
            staged = noisy_step(x, now, stage, denoised, ancestral_shares(now, stage, eta), s_noise, noise)
            denoised = denoised + (denoise(staged, stage.t).x0 - denoised) / (2 * r)
        x = noisy_step(x, now, then, denoised, ancestral_shares(now, then, eta), s_noise, noise)
        yield Step(index, len(levels) - 1, then.t, x, prediction)


def dpmpp_2m_sde(
    denoise: Denoiser,
    x: Tensor,
    grid: Tensor,
    noise: Noise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    solver_type: str = "midpoint",
    lower_order_final: bool = True,
) -> Iterator[Step]:
    """DPM-Solver++(2M) for the reverse SDE (Lu et al. 2022, eq. 19; k-diffusion's `sample_dpmpp_2m_sde`). Stochastic.

    `dpmpp_2m` at eta = 0 with `midpoint`. One call a step; of order 1 where `dpmpp_2m` is.

    Args:
        denoise: the denoiser.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: its path gives the increment of each step.
        eta: 0 (deterministic) to 1 (the reverse SDE); k = e^(-eta h).
        s_noise: scale of the noise.
        solver_type: `midpoint`, or `heun`, which integrates the line through the last two x0 exactly.
        lower_order_final: as of `dpmpp_2m`.

    Raises:
        ValueError: eta below 0, an unknown solver_type.
    """
    if solver_type not in SOLVER_TYPES:
        raise ValueError(f"unknown solver_type {solver_type!r}; known: midpoint, heun")
    levels = levels_of(denoise.process, grid)
    total = len(levels) - 1
    x0_before, h_before = None, math.inf
    for index, (now, then) in enumerate(pairwise(levels)):
        prediction = denoise(x, now.t)
        h = then.lam - now.lam
        denoised = prediction.x0
        plain = not 0 < h < math.inf or (lower_order_final and total < 15 and index == total - 1)
        if x0_before is not None and not plain:
            whole = (1 + eta) * h
            ahead = 0.5 if solver_type == "midpoint" else -1 / math.expm1(-whole) - 1 / whole
            denoised = denoised + ahead * h / h_before * (denoised - x0_before)
        x = noisy_step(x, now, then, denoised, sde_shares(now, then, eta), s_noise, noise)
        x0_before, h_before = prediction.x0, h
        yield Step(index, total, then.t, x, prediction)


def dpmpp_3m_sde(
    denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Iterator[Step]:
    """DPM-Solver++(3M) for the reverse SDE (k-diffusion's `sample_dpmpp_3m_sde`). Stochastic, one call a step.

    x0 goes on along the parabola through the last three, the second step along a line; the first, one after a start at
    alpha = 0, and one that ends at sigma = 0 are of order 1. The second difference has half the weight of its integral,
    as in k-diffusion and the authors' code: order 2 at eta = 0, but up to some 40 steps nearer than the full order 3.

    Args:
        denoise: the denoiser.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: its path gives the increment of each step.
        eta: 0 (deterministic) to 1 (the reverse SDE).
        s_noise: scale of the noise.

    Raises:
        ValueError: eta below 0.
    """
    levels = levels_of(denoise.process, grid)
    seen: list[tuple[Tensor, float]] = []
    for index, (now, then) in enumerate(pairwise(levels)):
        prediction = denoise(x, now.t)
        h = then.lam - now.lam
        denoised = prediction.x0
        if seen and 0 < h < math.inf:
            x0_1, h_1 = seen[-1]
            whole = (1 + eta) * h
            area = -math.expm1(-whole)
            line = 1 - area / whole
            slope = (denoised - x0_1) * (h / h_1)
            if len(seen) > 1:
                x0_2, h_2 = seen[-2]
                curve = (slope - (x0_1 - x0_2) * (h / h_2)) / (h_1 + h_2) * h
                slope = slope + curve * (h_1 / h - (1 / whole - 0.5 / line))
            denoised = denoised + line / area * slope
        x = noisy_step(x, now, then, denoised, sde_shares(now, then, eta), s_noise, noise)
        seen = [*seen[-1:], (prediction.x0, h)]
        yield Step(index, len(levels) - 1, then.t, x, prediction)
