"""The record that samplers yield, and the noise levels along a grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ldm.denoiser import Prediction
from ldm.process import Process


class Noise(Protocol):
    """A source of standard normal noise `(B, C, h, w)` on x's device, e.g. `ldm.noise.NoiseSource`."""

    def __call__(self) -> Tensor:
        """The next independent draw."""

    def between(self, start: float, end: float) -> Tensor:
        """(W(end) - W(start)) / sqrt(end - start) of a Brownian path W that is the same for any number of steps.

        0 <= start < end <= 1: the `Level.progress` of a step's two ends.
        """


@dataclass(frozen=True)
class Step:
    """One finished step of a sampler.

    Attributes:
        index: 0 to total - 1.
        total: number of steps.
        t: the time that x is at now, `grid[index + 1]`.
        x: `(B, C, h, w)`, in the process's coordinates.
        prediction: what the denoiser said at the step's beginning, at `grid[index]`; its x0 is the preview.
    """

    index: int
    total: int
    t: float
    x: Tensor
    prediction: Prediction


class NoiseLevel(NamedTuple):
    """A point of the grid: x = alpha x0 + sigma eps.

    Attributes:
        t: the time.
        alpha, sigma: scales of picture and noise.
        lam: log(alpha / sigma), -inf for pure noise, +inf for none.
        progress: 0 (pure noise) to 1 (picture), `Process.progress`.
    """

    t: float
    alpha: float
    sigma: float
    lam: float
    progress: float


def levels_of(process: Process, grid: Tensor) -> list[NoiseLevel]:
    """The levels at the times of a grid `(n + 1,)`, computed in float64."""
    progress = process.progress(grid).clamp(0, 1)
    columns = (grid, *process.levels(grid), process.log_snr_half(grid), progress)
    return [NoiseLevel(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def levels_at(process: Process, lams: Sequence[float]) -> list[NoiseLevel]:
    """The levels at which log(alpha / sigma) is each of `lams`, or the nearest that the process reaches."""
    return levels_of(process, process.time_of_lambda(torch.tensor(lams, dtype=torch.float64).nan_to_num()))
