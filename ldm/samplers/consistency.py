"""Samplers of distilled models, which jump to the picture and back: LCM and TCD."""

import math
from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from ldm.denoiser import Denoiser
from ldm.process import Process
from ldm.samplers.step import Noise, NoiseLevel, Step, levels_of


def lcm(denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Iterator[Step]:
    """x' = alpha' x0 + sigma' z (Luo et al. 2023, "Latent Consistency Models", alg. 3). Stochastic, one call a step.

    The network, distilled, answers with the end of its trajectory. diffusers mixes a little of x into x0 (c_skip below
    1e-5 from timestep 16 on, all of x at timestep 0, which no grid of a distilled model visits).

    Args:
        denoise: the denoiser of a consistency model; guidance is usually distilled in, so scale 1.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`; 2 to 8 steps, `trailing` for n that divide 50.
        noise: drawn from once a step, not in one that ends at sigma = 0.
    """
    levels = levels_of(denoise.process, grid)
    for index, (now, then) in enumerate(pairwise(levels)):
        prediction = denoise(x, now.t)
        x = then.alpha * prediction.x0
        if then.sigma > 0:
            x = x + then.sigma * noise()
        yield Step(index, len(levels) - 1, then.t, x, prediction)


def tcd(denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise, *, eta: float = 0.3) -> Iterator[Step]:
    """A jump to time s = (1 - eta) t', then noise up to t' (Zheng et al. 2024, "TCD", alg. 4). One call a step.

    Times count in training indices, whole ones where the process has them. As x' = alpha' x0 + sigma' (k eps +
    sqrt(1 - k^2) z) it is a step of `ddim` with k = e^(lambda' - lambda(s)): deterministic at eta = 0, near `lcm` at 1.

    Args:
        denoise: the denoiser of a trajectory consistency model.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: drawn from once a step where eta > 0, not in one that ends at training index 0 or below.
        eta: 0 (deterministic) to 1; the paper's gamma. More steps want more.

    Raises:
        ValueError: eta outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta} must be between 0 and 1")
    levels = levels_of(denoise.process, grid)
    for index, (now, then) in enumerate(pairwise(levels)):
        prediction = denoise(x, now.t)
        kept = _kept_at(denoise.process, then, eta)
        x = then.alpha * prediction.x0 + then.sigma * kept * prediction.eps
        if kept < 1:
            x = x + then.sigma * math.sqrt(1 - kept**2) * noise()
        yield Step(index, len(levels) - 1, then.t, x, prediction)


def _kept_at(process: Process, then: NoiseLevel, eta: float) -> float:
    """The share of old noise at t' after a jump to training index (1 - eta) i and back; all of it for i <= 0."""
    place = process.index_of_time(then.t)
    if place <= 0 or eta == 0:
        return 1.0
    target = (1 - eta) * place
    beyond = process.log_snr_half(process.time_of_index(target.floor() if process.integer_times else target))
    return math.exp(then.lam - beyond.item())
