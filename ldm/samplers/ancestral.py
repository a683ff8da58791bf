"""Ancestral samplers: each step denoises a little too far, then draws noise to make up for it.

Every step here and in `ldm.samplers.sde` goes from x = alpha x0 + sigma eps to x' = alpha' x0 + sigma' eps' with
eps' = k eps + sqrt(1 - k^2) z: a part k of the noise is kept, the rest is drawn anew, so the variance is right for any
k, alpha and sigma. The deterministic part is a step to lambda' - log(k), scaled by alpha' over the alpha found there.
For EDM this is k-diffusion's `get_ancestral_step`; for flow the renormalised form of ComfyUI's "RF" variants and of
diffusers' `LTXEulerAncestralRFScheduler`, whose eta counts from another end: they keep k = (sigma'' / (1 - sigma''))
(1 - sigma') / sigma' with sigma'' = sigma' (1 + eta (sigma' / sigma - 1)), which renews less.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from ldm.denoiser import Denoiser
from ldm.process import Process
from ldm.samplers.means import ode_step
from ldm.samplers.step import Noise, NoiseLevel, Step, levels_at, levels_of


def ancestral_shares(now: NoiseLevel, then: NoiseLevel, eta: float) -> tuple[float, float]:
    """(k, sqrt(1 - k^2)) with 1 - k^2 = eta^2 (1 - e^(-2 h)), h the step in lambda: DDPM's posterior at eta = 1.

    Raises:
        ValueError: eta below 0.
    """
    if eta < 0:
        raise ValueError(f"eta={eta} must not be negative; use 0 (deterministic) to 1")
    renewed = min(1.0, -(eta**2) * math.expm1(2 * (now.lam - then.lam)))
    return math.sqrt(1 - renewed), math.sqrt(renewed)


def exponential_step(x: Tensor, now: NoiseLevel, then: NoiseLevel, denoised: Tensor, kept: float = 1.0) -> Tensor:
    """alpha' (1 - k e^(-h)) x0 + (sigma' / sigma) k x: the mean of x' given x, exact where x0 is `denoised` all along.

    The exponential integrator of DPM-Solver++ (Lu et al. 2022, eq. 9; with noise eq. 18). `denoised` is `(B, C, h, w)`.
    """
    return then.sigma / now.sigma * kept * x + then.alpha * (1 - kept * math.exp(now.lam - then.lam)) * denoised


def _middles(process: Process, levels: list[NoiseLevel], eta: float) -> list[NoiseLevel]:
    """Halfway in lambda between each level and where its step lands before noise is drawn."""
    shares = [ancestral_shares(now, then, eta)[0] for now, then in pairwise(levels)]
    landings = [
        then.lam - math.log(kept) if kept > 0 else math.inf for then, kept in zip(levels[1:], shares, strict=True)
    ]
    return levels_at(process, [(now.lam + landing) / 2 for now, landing in zip(levels, landings, strict=False)])


def euler_ancestral(
    denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Iterator[Step]:
    """x' = alpha' x0 + sigma' (k eps + sqrt(1 - k^2) z) (k-diffusion's `sample_euler_ancestral`). Order 1, stochastic.

    The same as `ddim` with this eta; so `ddpm` at eta = 1 and `euler` at eta = 0.

    Args:
        denoise: the denoiser; one call a step.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: drawn from once a step where there is noise to draw.
        eta: 0 (deterministic) to 1 (the posterior of DDPM); above, until all noise is new.
        s_noise: scale of the drawn noise; a little above 1 keeps texture.

    Raises:
        ValueError: eta below 0.
    """
    levels = levels_of(denoise.process, grid)
    for index, (now, then) in enumerate(pairwise(levels)):
        prediction = denoise(x, now.t)
        kept, fresh = ancestral_shares(now, then, eta)
        x = ode_step(now, then._replace(sigma=then.sigma * kept), prediction, prediction.eps)
        if then.sigma * fresh > 0:
            x = x + then.sigma * fresh * s_noise * noise()
        yield Step(index, len(levels) - 1, then.t, x, prediction)


def dpm2_ancestral(
    denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Iterator[Step]:
    """DPM-Solver-2 between draws: eps is evaluated halfway in lambda (k-diffusion's `sample_dpm_2_ancestral`).

    Two calls a step, one where it begins at alpha = 0 or keeps no noise. Order 2 at eta = 0, where it is `dpm2`.

    Args:
        denoise: the denoiser.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: drawn from once a step where there is noise to draw.
        eta: as of `euler_ancestral`.
        s_noise: scale of the drawn noise.

    Raises:
        ValueError: eta below 0.
    """
    levels = levels_of(denoise.process, grid)
    for index, (now, then, middle) in enumerate(
        zip(levels, levels[1:], _middles(denoise.process, levels, eta), strict=False)
    ):
        prediction = denoise(x, now.t)
        kept, fresh = ancestral_shares(now, then, eta)
        slope = prediction.eps
        if now.alpha > 0 and then.sigma * kept > 0:
            slope = denoise(ode_step(now, middle, prediction, slope), middle.t).eps
        x = ode_step(now, then._replace(sigma=then.sigma * kept), prediction, slope)
        if then.sigma * fresh > 0:
            x = x + then.sigma * fresh * s_noise * noise()
        yield Step(index, len(levels) - 1, then.t, x, prediction)


def dpmpp_2s_ancestral(
    denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Iterator[Step]:
    """DPM-Solver++(2S) between draws: x0 is evaluated halfway in lambda (k-diffusion's `sample_dpmpp_2s_ancestral`).

    Two calls a step, one where it begins at alpha = 0 or keeps no noise. Order 2 at eta = 0 (Lu et al. 2022, alg. 1).

    Args:
        denoise: the denoiser.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: drawn from once a step where there is noise to draw.
        eta: as of `euler_ancestral`.
        s_noise: scale of the drawn noise.

    Raises:
        ValueError: eta below 0.
    """
    levels = levels_of(denoise.process, grid)
    for index, (now, then, middle) in enumerate(
        zip(levels, levels[1:], _middles(denoise.process, levels, eta), strict=False)
    ):
        prediction = denoise(x, now.t)
        kept, fresh = ancestral_shares(now, then, eta)
        denoised = prediction.x0
        if now.alpha > 0 and then.sigma * kept > 0:
            denoised = denoise(exponential_step(x, now, middle, denoised), middle.t).x0
        x = exponential_step(x, now, then, denoised, kept)
        if then.sigma * fresh > 0:
            x = x + then.sigma * fresh * s_noise * noise()
        yield Step(index, len(levels) - 1, then.t, x, prediction)
