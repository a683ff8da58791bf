"""Linear multistep methods on the slope eps, one network call a step: PLMS, LMS, iPNDM, gradient estimation, DEIS."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from torch import Tensor

from ldm.denoiser import Denoiser
from ldm.samplers.means import mean, ode_step, polynomial_mean
from ldm.samplers.step import Noise, Step, levels_of

_ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Mean of the polynomial through the last 1 to 4 values of even steps, newest first, over the next step."""


def plms(denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Iterator[Step]:
    """Pseudo linear multistep, PNDM without its Runge-Kutta start (Liu et al. 2022, "PNDM", eq. 9 and 12). Order 2.

    The sampler of Stable Diffusion 1. The slope is extrapolated by Adams and Bashforth's four-step rule as if the
    steps were even, and put into the step of DDIM, which limits the order to 2 on any smooth grid. The first step is
    Heun's, with one more call; the next two use the rules of two and three steps. A step from alpha = 0 is DDIM's and
    forgotten, as in `lms`, and the step after it is the first.

    Args:
        denoise: the denoiser; one call a step, two in the first.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: not used.
    """
    levels = levels_of(denoise.process, grid)
    past: list[Tensor] = []
    for index, (now, then) in enumerate(pairwise(levels)):
        prediction = denoise(x, now.t)
        slope = prediction.eps
        if now.alpha > 0:
            past = [slope, *past[:3]]
            slope = mean(_ADAMS_BASHFORTH[len(past) - 1], past)
        if len(past) == 1 and then.sigma > 0:
            # The slope at `then`, less the slope here, by the two pictures: x would lose the digits if sigma falls far.
            second = denoise(ode_step(now, then, prediction, slope), then.t)
            slope = slope + (prediction.x0 - second.x0) * (then.alpha / then.sigma / 2)
        x = ode_step(now, then, prediction, slope)
        yield Step(index, len(levels) - 1, then.t, x, prediction)


def lms(denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise, *, order: int = 4) -> Iterator[Step]:
    """Adams and Bashforth's method in sigma / alpha on any grid (k-diffusion's `sample_lms`).

    The mean of the polynomial through the last `order` slopes. The first step has one slope only and its error, of
    order 2 in the step, remains: the order is min(order, 2). A start at alpha = 0, where sigma / alpha is infinite, has
    no place on a polynomial and is forgotten after the first step.

    Args:
        denoise: the denoiser; one call a step.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: not used.
        order: 1 to 4.

    Raises:
        ValueError: order out of range.
    """
    _check_order(order, 4)
    levels = levels_of(denoise.process, grid)
    past: list[tuple[float, Tensor]] = []
    for index, (now, then) in enumerate(pairwise(levels)):
        prediction = denoise(x, now.t)
        slope = prediction.eps
        if now.alpha > 0:
            rho, end = now.sigma / now.alpha, then.sigma / then.alpha
            past = [(rho, slope), *past[: order - 1]]
            slope = polynomial_mean([(place - rho, eps) for place, eps in past], end - rho)
        x = ode_step(now, then, prediction, slope)
        yield Step(index, len(levels) - 1, then.t, x, prediction)


def ipndm(denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise, *, order: int = 4) -> Iterator[Step]:
    """Improved PNDM (Zhang and Chen 2023, "DEIS", section 5): `plms` whose first step is of order 1. Order 2.

    Adams and Bashforth's rules for even steps, of as many slopes as there are, up to `order`. A step to sigma = 0 ends
    at x0, and a start at alpha = 0 is forgotten, as in `lms`.

    Args:
        denoise: the denoiser; one call a step.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: not used.
        order: 1 to 4, ComfyUI's `max_order`.

    Raises:
        ValueError: order out of range.
    """
    _check_order(order, 4)
    levels = levels_of(denoise.process, grid)
    past: list[Tensor] = []
    for index, (now, then) in enumerate(pairwise(levels)):
        prediction = denoise(x, now.t)
        slope = prediction.eps
        if now.alpha > 0:
            past = [slope, *past[: order - 1]]
            slope = mean(_ADAMS_BASHFORTH[len(past) - 1], past) if then.sigma > 0 else slope
        x = ode_step(now, then, prediction, slope)
        yield Step(index, len(levels) - 1, then.t, x, prediction)


def ipndm_v(denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise, *, order: int = 4) -> Iterator[Step]:
    """Improved PNDM with the rule of the steps as they are, not of even ones: `lms` but for a step to sigma = 0.

    That step ends at x0, where `lms` still extrapolates. The weights of order 3 and 4 in ComfyUI and diff-sampler are
    right for even steps only (a bracket around the ratio of steps is missing there); these are on any grid.

    Args:
        denoise: the denoiser; one call a step.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: not used.
        order: 1 to 4, ComfyUI's `max_order`.

    Raises:
        ValueError: order out of range.
    """
    last = None if denoise.process.sigma(grid[-1]) > 0 else len(grid) - 2
    for step in lms(denoise, x, grid, noise, order=order):
        end = step.prediction.x0 * denoise.process.alpha(step.t).item()
        yield replace(step, x=end) if step.index == last else step


def gradient_estimation(
    denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise, *, gamma: float = 2.0
) -> Iterator[Step]:
    """Euler's step along gamma eps + (1 - gamma) eps_before (Permenter and Yuan 2024, arXiv:2306.04848, alg. 2).

    The slope goes on beyond the last one, for eps is wrong in the direction of its own change. Order 1, at gamma = 1.5
    on even steps of sigma / alpha order 2 (Adams and Bashforth). A step to sigma = 0 ends at x0, and a start at
    alpha = 0 is forgotten, as in `lms`.

    Args:
        denoise: the denoiser; one call a step.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: not used.
        gamma: 1 is `euler`; the paper's and ComfyUI's is 2.
    """
    levels = levels_of(denoise.process, grid)
    before: Tensor | None = None
    for index, (now, then) in enumerate(pairwise(levels)):
        prediction = denoise(x, now.t)
        slope = prediction.eps
        if before is not None and then.sigma > 0:
            slope = slope + (gamma - 1) * (slope - before)
        before = prediction.eps if now.alpha > 0 else None
        x = ode_step(now, then, prediction, slope)
        yield Step(index, len(levels) - 1, then.t, x, prediction)


def deis(
    denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise, *, order: int = 2, lower_order_final: bool = True
) -> Iterator[Step]:
    """DEIS in log(sigma / alpha) (Zhang and Chen 2023, "DEIS", eq. 14 and 15; "rho-AB" on a log axis, as in diffusers).

    `lms` with a polynomial in lambda. A step that ends at sigma = 0 is of order 1. Order 2, also for `order=3`, since
    the first step is of order 1 (see `lms`).

    Args:
        denoise: the denoiser; one call a step.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: not used.
        order: 1 to 3, diffusers' `solver_order`.
        lower_order_final: with fewer than 15 steps the last is of order 1 and the last but one at most of order 2.

    Raises:
        ValueError: order out of range.
    """
    _check_order(order, 3)
    levels = levels_of(denoise.process, grid)
    total = len(levels) - 1
    past: list[tuple[float, Tensor]] = []
    for index, (now, then) in enumerate(pairwise(levels)):
        prediction = denoise(x, now.t)
        slope = prediction.eps
        if now.alpha > 0:
            past = [(now.lam, slope), *past[: order - 1]]
            used = min(order, total - index) if lower_order_final and total < 15 else order
            used = used if then.sigma > 0 else 1
            slope = polynomial_mean([(lam - now.lam, eps) for lam, eps in past[:used]], then.lam - now.lam, -1.0)
        x = ode_step(now, then, prediction, slope)
        yield Step(index, total, then.t, x, prediction)


def _check_order(order: int, most: int) -> None:
    if order not in range(1, most + 1):
        raise ValueError(f"order={order} must be a whole number from 1 to {most}")
