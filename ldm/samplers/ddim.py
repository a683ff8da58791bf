"""First-order samplers: DDIM, and its two ends Euler (eta = 0) and DDPM (eta = 1)."""

import math
from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from ldm.denoiser import Denoiser
from ldm.samplers.step import Noise, Step, levels_of


def ddim(denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise, *, eta: float = 0.0) -> Iterator[Step]:
    """x' = alpha' x0 + sigma' (sqrt(1 - r) eps + sqrt(r) z) (Song et al. 2021, "DDIM", eq. 12 and 16). Order 1.

    r = eta^2 (1 - exp(-2 h)), with h the step in lambda, is the share of the noise's variance that is drawn anew; for
    VP sigma'^2 r is the paper's eq. 16. In this form it holds for EDM and flow, at alpha = 0 and at sigma = 0.

    Args:
        denoise: the denoiser; one call a step.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: drawn from once a step where r > 0.
        eta: 0 (deterministic) to 1 (the posterior of DDPM).

    Raises:
        ValueError: eta outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta} must be between 0 and 1")
    levels = levels_of(denoise.process, grid)
    for index, (now, then) in enumerate(pairwise(levels)):
        prediction = denoise(x, now.t)
        renewed = -(eta**2) * math.expm1(2 * (now.lam - then.lam))
        x = then.alpha * prediction.x0 + then.sigma * math.sqrt(1 - renewed) * prediction.eps
        if then.sigma * renewed > 0:
            x = x + then.sigma * math.sqrt(renewed) * noise()
        yield Step(index, len(levels) - 1, then.t, x, prediction)


def euler(denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Iterator[Step]:
    """Euler's method on d(x / alpha) / d(sigma / alpha) = eps (Karras et al. 2022, eq. 4). Order 1, deterministic.

    The step x' = x + ... of EDM, k-diffusion and rectified flow is, with x = alpha x0 + sigma eps put in,
    x' = alpha' x0 + sigma' eps: the very formula of DDIM without noise, of which this is another name.
    """
    yield from ddim(denoise, x, grid, noise)


def ddpm(denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Iterator[Step]:
    """A draw from the posterior q(x' | x, x0) (Ho et al. 2020, eq. 6 and 7, the smaller variance). Stochastic.

    x' = alpha' (1 - e^(-2h)) x0 + (sigma' / sigma) e^(-h) x + sigma' sqrt(1 - e^(-2h)) z, with h the step in lambda.
    Equals `ddim` with eta = 1, but leans on x, not on eps, which matters where x0 was changed without eps (clipping).
    """
    levels = levels_of(denoise.process, grid)
    for index, (now, then) in enumerate(pairwise(levels)):
        prediction = denoise(x, now.t)
        decay = math.exp(now.lam - then.lam)
        renewed = -math.expm1(2 * (now.lam - then.lam))
        x = then.alpha * renewed * prediction.x0 + then.sigma / now.sigma * decay * x
        if then.sigma * renewed > 0:
            x = x + then.sigma * math.sqrt(renewed) * noise()
        yield Step(index, len(levels) - 1, then.t, x, prediction)
