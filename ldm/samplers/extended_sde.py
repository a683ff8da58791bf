"""ER-SDE-Solver: a reverse SDE whose noise may be any function of the noise level, solved along differences of x0."""

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from torch import Tensor

from ldm.denoiser import Denoiser
from ldm.samplers.sde import noisy_step
from ldm.samplers.step import Noise, NoiseLevel, Step, levels_of

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)
"""Of an integral over [-1, 1]."""


def er_sde(
    denoise: Denoiser,
    x: Tensor,
    grid: Tensor,
    noise: Noise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    max_stage: int = 3,
) -> Iterator[Step]:
    """ER-SDE-Solver-1 to -3 (Cui et al. 2023, arXiv:2309.06169, alg. 1 to 3). Stochastic, one call a step.

    With r = sigma / alpha, the share of the old noise that is kept is g(r') / g(r), g(r) = (e^(r^0.3) + 10)^eta: the
    paper's choice phi(r) = r g(r) at eta = 1. x0 is continued with its first and second difference in r, whose
    integrals against phi are taken by quadrature. Order 2 at eta = 0, where it solves the ODE; the second difference
    stands for the derivative at one end, as published. A step from alpha = 0 or to sigma = 0 is of order 1.

    Args:
        denoise: the denoiser.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: its path gives the increment of each step.
        eta: 0 (deterministic) to 1 (the paper's noise).
        s_noise: scale of the noise.
        max_stage: 1 to 3, how many values of x0 a step leans on.

    Raises:
        ValueError: eta below 0, max_stage out of range.
    """
    if max_stage not in (1, 2, 3):
        raise ValueError(f"max_stage={max_stage} must be a whole number from 1 to 3")
    levels = levels_of(denoise.process, grid)
    seen: list[tuple[float, Tensor]] = []
    for index, (now, then) in enumerate(pairwise(levels)):
        prediction = denoise(x, now.t)
        denoised = prediction.x0
        if now.alpha > 0:
            seen = [(now.sigma / now.alpha, prediction.x0), *seen[: max_stage - 1]]
        shares = extended_shares(now, then, eta)
        if len(seen) > 1 and 0 < then.lam - now.lam < math.inf:
            weights = _mean_powers(now, then, eta)
            for weight, difference in zip(weights, _differences(seen), strict=False):
                denoised = denoised + weight * difference
        x = noisy_step(x, now, then, denoised, shares, s_noise, noise)
        yield Step(index, len(levels) - 1, then.t, x, prediction)


def extended_shares(now: NoiseLevel, then: NoiseLevel, eta: float) -> tuple[float, float]:
    """(k, sqrt(1 - k^2)) with k = g(r') / g(r), the share of the old noise that a step keeps.

    Raises:
        ValueError: eta below 0.
    """
    if eta < 0:
        raise ValueError(f"eta={eta} must not be negative; use 0 (deterministic) to 1")
    decay = eta * (_log_g(now.lam) - _log_g(then.lam)) if eta > 0 else 0.0
    return math.exp(-decay), math.sqrt(-math.expm1(-2 * decay))


def _log_g(lam: float) -> float:
    """log(e^(r^0.3) + 10) for r = e^(-lam)."""
    power = math.exp(-0.3 * lam)
    return power + math.log1p(10 * math.exp(-power))


def _mean_powers(now: NoiseLevel, then: NoiseLevel, eta: float) -> tuple[float, float]:
    """The means of (u - r) and of (u - r)^2 / 2 over u in [r', r] with density d(-1 / phi(u)), r' where the step ends.

    By parts they are integrals of 1 - phi(r') / phi(u), here over log(u), in which all is smooth.
    """
    h = then.lam - now.lam
    lams = now.lam + h * (_NODES + 1) / 2
    fall = np.array([eta * (_log_g(then.lam) - _log_g(lam)) + lam - then.lam for lam in lams])
    u, r = np.exp(-lams), math.exp(-now.lam)
    mass = -np.expm1(fall) * u * _WEIGHTS * (h / 2)
    total = -math.expm1(eta * (_log_g(then.lam) - _log_g(now.lam)) - h)
    return -mass.sum().item() / total, (mass * (r - u)).sum().item() / total


def _differences(seen: list[tuple[float, Tensor]]) -> list[Tensor]:
    """The first and second difference of x0 in r, from two or three (r, x0) pairs, newest first."""
    slopes = [(value - before) / (r - r_before) for (r, value), (r_before, before) in pairwise(seen)]
    if len(slopes) == 1:
        return slopes
    return [slopes[0], 2 * (slopes[0] - slopes[1]) / (seen[0][0] - seen[2][0])]
