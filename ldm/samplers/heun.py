"""Heun's second-order method, the deterministic sampler of EDM."""

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from ldm.denoiser import Denoiser
from ldm.samplers.step import Noise, Step, levels_of


def heun(denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Iterator[Step]:
    """Heun's method on d(x / alpha) / d(sigma / alpha) = eps (Karras et al. 2022, alg. 1). Order 2, deterministic.

    Two calls a step: an Euler step to x_e, then x' = x_e + (sigma' - sigma alpha' / alpha) (eps(x_e) - eps(x)) / 2.
    A step that ends at sigma = 0 stays an Euler step, for there is no slope to ask for, and so does one that begins at
    alpha = 0, where sigma / alpha is infinite; one such step does not change the order.
    """
    levels = levels_of(denoise.process, grid)
    for index, (now, then) in enumerate(pairwise(levels)):
        prediction = denoise(x, now.t)
        x = then.alpha * prediction.x0 + then.sigma * prediction.eps
        if now.alpha > 0 and then.sigma > 0:
            run = then.sigma - now.sigma * then.alpha / now.alpha
            x = x + run / 2 * (denoise(x, then.t).eps - prediction.eps)
        yield Step(index, len(levels) - 1, then.t, x, prediction)
