"""What samplers share: the record they yield and the levels along a grid."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ldm.denoiser import Prediction
from ldm.process import Process

Noise = Callable[[], Tensor]
"""Each call draws standard normal noise `(B, C, h, w)` on x's device, e.g. `ldm.noise.NoiseSource`."""


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


class Level(NamedTuple):
    """A point of the grid: x = alpha x0 + sigma eps; lam = log(alpha / sigma), -inf for pure noise, +inf for none."""

    t: float
    alpha: float
    sigma: float
    lam: float


def levels_of(process: Process, grid: Tensor) -> list[Level]:
    """The levels at the times of a grid `(n + 1,)`, computed in float64."""
    columns = (grid, *process.levels(grid), process.log_snr_half(grid))
    return [Level(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
