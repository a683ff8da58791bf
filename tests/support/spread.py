"""The spread that a sampler leaves, measured."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ldm.denoiser import Prediction
from ldm.process import Process
from ldm.samplers.step import Step, levels_of

Sample = Callable[..., Iterator[Step]]


class Mixture:
    """The exact denoiser of data that is N(+-centre, std^2), either sign as often; centre = 0 is Gaussian data."""

    def __init__(self, process: Process, centre: float = 0.0, std: float = 0.5) -> None:
        self.process, self.centre, self.std, self.calls = process, centre, std, 0

    def __call__(self, x: Tensor, t: float) -> Prediction:
        self.calls += 1
        alpha, sigma = (level.item() for level in self.process.levels(t))
        variance = (alpha * self.std) ** 2 + sigma**2
        centre = self.centre * torch.tanh(alpha * self.centre * x / variance)
        rest = (x - alpha * centre) / variance
        return Prediction(centre + alpha * self.std**2 * rest, sigma * rest)


class Silence:
    """Noise that is zero and remembers its calls."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.calls = x, 0
        self.stretches: list[tuple[float, float]] = []

    def __call__(self) -> Tensor:
        self.calls += 1
        return torch.zeros_like(self.x)

    def between(self, start: float, end: float) -> Tensor:
        self.stretches.append((start, end))
        return torch.zeros_like(self.x)


class Impulses:
    """Noise that is one unit in one place for each pixel: a draw for the first ones, a cell of the path for others."""

    def __init__(self, heard: Silence) -> None:
        self.draws, self.load_options = heard.calls, 0
        self.cells = list(pairwise(sorted({end for stretch in heard.stretches for end in stretch})))
        self.size = self.draws + len(self.cells)

    def __call__(self) -> Tensor:
        unit = torch.zeros(self.size + 1, dtype=torch.float64)
        unit[self.load_options] = 1.0
        self.load_options += 1
        return unit

    def between(self, start: float, end: float) -> Tensor:
        inside = [math.sqrt((b - a) / (end - start)) if start <= a and b <= end else 0.0 for a, b in self.cells]
        return torch.tensor([0.0] * self.draws + inside + [0.0], dtype=torch.float64)


def last(steps: Iterator[Step]) -> Tensor:
    """The x at which a sampler ends."""
    *_, step = steps
    return step.x


def spread(sample: Sample, process: Process, grid: Tensor) -> float:
    """Standard deviation of what a sampler draws from data N(0, 0.25), exactly: there its steps are linear.

    Each pixel carries one unit of one source of variance (a draw, a cell of the path, the start); squares add up.
    """
    denoise = Mixture(process)
    heard = Silence(torch.zeros(1, dtype=torch.float64))
    last(sample(denoise, heard.x, grid, heard))
    noise = Impulses(heard)
    start = levels_of(process, grid)[0]
    x = torch.zeros(noise.size + 1, dtype=torch.float64)
    x[-1] = math.hypot(start.alpha * denoise.std, start.sigma)
    return last(sample(denoise, x, grid, noise)).square().sum().sqrt().item()
