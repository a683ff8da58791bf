"""The samplers of EDM and k-diffusion that walk along the slope eps: Euler, Heun and DPM2, with churn, and Heun++."""

import math
from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from ldm.denoiser import Denoiser
from ldm.process import Process
from ldm.samplers.means import ode_step
from ldm.samplers.step import Noise, NoiseLevel, Step, levels_at, levels_of


def churn_levels(
    process: Process, levels: list[NoiseLevel], s_churn: float, s_tmin: float = 0.0, s_tmax: float = math.inf
) -> list[NoiseLevel]:
    """Where churn lifts the beginning of each step to: rho_hat = (1 + gamma) rho, rho = sigma / alpha.

    gamma = min(s_churn / n, sqrt(2) - 1) where s_tmin <= rho <= s_tmax (Karras et al. 2022, alg. 2), n the number of
    steps. No level is lifted above the process's start, beyond which no network was trained (k-diffusion goes there).

    Raises:
        ValueError: s_churn below 0.
    """
    if s_churn < 0:
        raise ValueError(f"s_churn={s_churn} must not be negative; use 0 (deterministic) or more")
    starts = levels[:-1]
    gamma = min(s_churn / max(len(starts), 1), math.sqrt(2) - 1)
    chosen = [
        i for i, now in enumerate(starts) if gamma > 0 and now.alpha > 0 and s_tmin <= now.sigma / now.alpha <= s_tmax
    ]
    lams = [starts[i].lam - math.log1p(gamma) for i in chosen]
    churned = dict(zip(chosen, levels_at(process, lams), strict=True))
    return [churned[i] if i in churned and churned[i].lam < now.lam else now for i, now in enumerate(starts)]


def renoise(x: Tensor, now: NoiseLevel, then: NoiseLevel, noise: Noise, s_noise: float = 1.0) -> Tensor:
    """x `(B, C, h, w)` at `now` with noise added up to the noisier `then`; x itself where they are the same level."""
    if then is now:
        return x
    scale = then.alpha / now.alpha
    return scale * x + s_noise * math.sqrt(then.sigma**2 - (scale * now.sigma) ** 2) * noise()


def euler(
    denoise: Denoiser,
    x: Tensor,
    grid: Tensor,
    noise: Noise,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """Euler's method on d(x / alpha) / d(sigma / alpha) = eps (Karras et al. 2022, eq. 4). Order 1, one call a step.

    The step x' = x + ... of EDM, k-diffusion and rectified flow is, with x = alpha x0 + sigma eps put in,
    x' = alpha' x0 + sigma' eps: the very formula of DDIM without noise, of which this is another name.

    Args:
        denoise: the denoiser.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: drawn from once in each churned step.
        s_churn: 0 (deterministic) or how much noise to add and remove again over all steps, see `churn_levels`.
        s_tmin: least sigma / alpha at which to churn.
        s_tmax: greatest sigma / alpha at which to churn.
        s_noise: scale of the added noise; a little above 1 makes up for detail that the network loses.

    Raises:
        ValueError: s_churn below 0.
    """
    levels = levels_of(denoise.process, grid)
    churned = churn_levels(denoise.process, levels, s_churn, s_tmin, s_tmax)
    for index, (now, hat, then) in enumerate(zip(levels, churned, levels[1:], strict=False)):
        x = renoise(x, now, hat, noise, s_noise)
        prediction = denoise(x, hat.t)
        x = ode_step(hat, then, prediction, prediction.eps)
        yield Step(index, len(churned), then.t, x, prediction)


def heun(
    denoise: Denoiser,
    x: Tensor,
    grid: Tensor,
    noise: Noise,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """Heun's method on d(x / alpha) / d(sigma / alpha) = eps (Karras et al. 2022, alg. 1 and 2). Order 2.

    Two calls a step: an Euler step to x_e, then another with the slope (eps(x) + eps(x_e)) / 2. A step that ends at
    sigma = 0 stays an Euler step, for there is no slope to evaluate, and so does one that begins at alpha = 0, where
    sigma / alpha is infinite; one such step does not change the order.

    Args:
        denoise: the denoiser.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: drawn from once in each churned step.
        s_churn: as of `euler`.
        s_tmin: as of `euler`.
        s_tmax: as of `euler`.
        s_noise: as of `euler`.

    Raises:
        ValueError: s_churn below 0.
    """
    levels = levels_of(denoise.process, grid)
    churned = churn_levels(denoise.process, levels, s_churn, s_tmin, s_tmax)
    for index, (now, hat, then) in enumerate(zip(levels, churned, levels[1:], strict=False)):
        x = renoise(x, now, hat, noise, s_noise)
        prediction = denoise(x, hat.t)
        x = ode_step(hat, then, prediction, prediction.eps)
        if hat.alpha > 0 and then.sigma > 0:
            x = ode_step(hat, then, prediction, (prediction.eps + denoise(x, then.t).eps) / 2)
        yield Step(index, len(churned), then.t, x, prediction)


def dpm2(
    denoise: Denoiser,
    x: Tensor,
    grid: Tensor,
    noise: Noise,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """DPM-Solver-2 as k-diffusion has it (`sample_dpm_2`; after Lu et al. 2022, "DPM-Solver", alg. 1). Order 2.

    Two calls a step: an Euler step halfway in lambda, then the whole step with the slope eps found there; an Euler step
    where `heun` takes one.

    Args:
        denoise: the denoiser.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: drawn from once in each churned step.
        s_churn: as of `euler`.
        s_tmin: as of `euler`.
        s_tmax: as of `euler`.
        s_noise: as of `euler`.

    Raises:
        ValueError: s_churn below 0.
    """
    process, levels = denoise.process, levels_of(denoise.process, grid)
    churned = churn_levels(process, levels, s_churn, s_tmin, s_tmax)
    halves = [(hat.lam + then.lam) / 2 for hat, then in zip(churned, levels[1:], strict=True)]
    middles = levels_at(process, halves)
    for index, ((now, then), hat, middle) in enumerate(zip(pairwise(levels), churned, middles, strict=True)):
        x = renoise(x, now, hat, noise, s_noise)
        prediction = denoise(x, hat.t)
        slope = prediction.eps
        if hat.alpha > 0 and then.sigma > 0:
            slope = denoise(ode_step(hat, middle, prediction, slope), middle.t).eps
        x = ode_step(hat, then, prediction, slope)
        yield Step(index, len(churned), then.t, x, prediction)


def heunpp2(denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Iterator[Step]:
    """Heun++ 2: Euler along a mean of the slopes at this and the next two points (ComfyUI's `heunpp2`). Order 1.

    There is no paper; the weights are sigma / alpha of the later points over three times that of the first, what is
    left for this point: so near the picture this is Euler's method. Three calls a step, two in the last but one, whose
    weight is of two slopes, and one in the last. A start at alpha = 0 is an Euler step, and the next level counts as
    the first.

    Args:
        denoise: the denoiser.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: not used.
    """
    levels = levels_of(denoise.process, grid)
    rhos = [level.sigma / level.alpha if level.alpha > 0 else math.inf for level in levels]
    most = next((rho for rho in rhos if rho < math.inf), 1.0)
    for index, (now, then) in enumerate(pairwise(levels)):
        prediction = denoise(x, now.t)
        x, total, seen = ode_step(now, then, prediction, prediction.eps), prediction.eps, prediction
        ahead = levels[index + 1 : -1][:2] if now.alpha > 0 else []
        trial = x
        for place, (level, rho) in enumerate(zip(ahead, rhos[index + 1 :], strict=False)):
            seen = denoise(trial, level.t)
            total = total + rho / (most * (len(ahead) + 1)) * (seen.eps - prediction.eps)
            if place + 1 < len(ahead):
                trial = ode_step(level, ahead[place + 1], seen, seen.eps)
        x = ode_step(now, then, prediction, total)
        yield Step(index, len(levels) - 1, then.t, x, prediction)
