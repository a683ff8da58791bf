"""The DPM-Solver++ family: exponential integrators in lambda that are exact for a constant x0."""

import math
from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from ldm.denoiser import Denoiser
from ldm.samplers.ancestral import exponential_step
from ldm.samplers.step import Noise, Step, levels_of


def dpmpp_2m(
    denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise, *, lower_order_final: bool = True
) -> Iterator[Step]:
    """DPM-Solver++(2M) (Lu et al. 2022, "DPM-Solver++", alg. 2). Order 2, deterministic, one call a step.

    x' = (sigma' / sigma) x + alpha' (1 - e^(-h)) D, D = x0 + h / (2 h_before) (x0 - x0_before), h the step in lambda.
    The first step has no history and the step to sigma = 0 has h = inf: both are of order 1 (D = x0), in k-diffusion
    and diffusers too. After a start at alpha = 0, h_before = inf makes the second step of order 1 as well.

    Args:
        denoise: the denoiser.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: not used.
        lower_order_final: with fewer than 15 steps the last is of order 1 also where it ends at sigma > 0, diffusers'
            option of that name. k-diffusion has no such rule; on grids that end at sigma = 0 it makes no difference.
    """
    levels = levels_of(denoise.process, grid)
    total = len(levels) - 1
    x0_before, h_before = None, math.inf
    for index, (now, then) in enumerate(pairwise(levels)):
        prediction = denoise(x, now.t)
        h = then.lam - now.lam
        denoised = prediction.x0
        plain = then.sigma == 0 or (lower_order_final and total < 15 and index == total - 1)
        if x0_before is not None and not plain:
            denoised = denoised + h / (2 * h_before) * (prediction.x0 - x0_before)
        x = exponential_step(x, now, then, denoised)
        x0_before, h_before = prediction.x0, h
        yield Step(index, total, then.t, x, prediction)
