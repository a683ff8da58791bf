"""First-order samplers of one family: DDIM, with noise (eta), its end DDPM (eta = 1), and DDIM upwards."""

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
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


def ddim_inversion(denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise, *, iterations: int = 1) -> Iterator[Step]:
    """The steps of `ddim` undone, from picture to noise (Song et al. 2021, section 4.3).

    Takes the grid of the walk to be undone and goes it from its end: x is at `grid[-1]`, the last step at `grid[0]`.
    The step x' = (alpha' / alpha) x + (sigma' - sigma alpha' / alpha) eps evaluates eps at the noisier time t', as
    `ddim` does, for the best guess at x': first x itself, as in diffusers' `DDIMInverseScheduler`, then the x' just
    found (Pan et al. 2023, "AIDI", a fixed point). One iteration errs by order 1 in the step; more approach the exact
    inverse where the step shrinks differences, and move away where it stretches them: each picture keeps the guess that
    came nearest to its own successor, and goes on from that successor. To alpha' = 0, where eps is x' and says nothing,
    the same step is written in x0; where it begins
    at sigma = 0 as well, in a walk of one step, nothing is known of the noise and x is returned as it is.

    Args:
        denoise: the denoiser; `iterations` calls a step. Guidance amplifies the error: use scale 1.
        x: `(B, C, h, w)` at time `grid[-1]`, a clean latent where the grid ends at the terminal point.
        grid: descending times `(n + 1,)`.
        noise: not used.
        iterations: of the fixed point, at least 1.

    Raises:
        ValueError: iterations below 1.
    """
    if iterations < 1:
        raise ValueError(f"iterations={iterations} must be at least 1")
    levels = levels_of(denoise.process, grid.flip(0))
    for index, (now, then) in enumerate(pairwise(levels)):
        guess = best = x
        least = torch.full((len(x), *[1] * (x.ndim - 1)), math.inf, device=x.device)
        for _ in range(iterations):
            prediction = denoise(guess, then.t)
            if then.alpha > 0 or now.sigma == 0:
                ratio = then.alpha / now.alpha
                successor = ratio * x + (then.sigma - now.sigma * ratio) * prediction.eps
            else:
                successor = then.sigma / now.sigma * (x - now.alpha * prediction.x0)
            residual = (successor - guess).square().flatten(1).mean(1).reshape(least.shape)
            best = torch.where(residual < least, successor, best)
            least, guess = torch.minimum(residual, least), successor
        x = best
        yield Step(index, len(levels) - 1, then.t, x, prediction)
