"""Data with a known denoiser, N(mean, std^2), and what the tests of samplers measure on it."""

import inspect
import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from ldm.denoiser import Prediction
from ldm.process import EDM, DiscreteVP, Flow, Process
from ldm.samplers import SAMPLERS
from ldm.schedules import SCHEDULES, make_grid

PROCESSES: dict[str, Process] = {
    "vp": DiscreteVP(),
    "vp_zero_snr": DiscreteVP(zero_terminal_snr=True),
    "flow": Flow(),
    "edm": EDM(),
}


class GaussianDenoiser:
    """The exact denoiser of data N(mean, std^2), whose probability-flow ODE is solved in closed form.

    x_t is N(alpha mean, alpha^2 std^2 + sigma^2), and the ODE keeps its standardised value. Counts its calls.
    """

    def __init__(self, process: Process, mean: float = 0.7, std: float = 0.5) -> None:
        self.process, self.mean, self.std = process, mean, std
        self.calls = 0
        self._levels: dict[float, tuple[float, float]] = {}

    def __call__(self, x: Tensor, t: float) -> Prediction:
        self.calls += 1
        alpha, sigma = self.levels(t)
        centred = (x - alpha * self.mean) / (alpha**2 * self.std**2 + sigma**2)
        return Prediction(self.mean + alpha * self.std**2 * centred, sigma * centred)

    def levels(self, t: float) -> tuple[float, float]:
        if t not in self._levels:
            alpha, sigma = self.process.levels(t)
            self._levels[t] = alpha.item(), sigma.item()
        return self._levels[t]

    def carry(self, x: Tensor, t: float, end: float) -> Tensor:
        """Where the ODE takes x from time t to `end`."""
        alpha, sigma = self.levels(t)
        standard = (x - alpha * self.mean) / math.hypot(alpha * self.std, sigma)
        alpha, sigma = self.levels(end)
        return alpha * self.mean + math.hypot(alpha * self.std, sigma) * standard


class Correlated:
    """The exact denoiser of Gaussian data whose neighbouring cells correlate by 0.9."""

    def __init__(self, process: Process, count: int) -> None:
        self.process = process
        places = torch.arange(count)
        self.covariance = 0.9 ** (places[:, None] - places).abs().double()

    def __call__(self, x: Tensor, t: float) -> Prediction:
        alpha, sigma = (level.item() for level in self.process.levels(t))
        total = alpha**2 * self.covariance + sigma**2 * torch.eye(len(self.covariance)).double()
        y = torch.linalg.solve(total, x.double().flatten(1).T).T
        return Prediction((alpha * y @ self.covariance).view_as(x).to(x), (sigma * y).view_as(x).to(x))

    def uncertainty(self, t: float) -> Tensor:
        """The covariance of the picture when x is known."""
        alpha, sigma = (level.item() for level in self.process.levels(t))
        total = alpha**2 * self.covariance + sigma**2 * torch.eye(len(self.covariance)).double()
        return sigma**2 * torch.linalg.solve(total, self.covariance)


class Tabled(Process):
    """A process with a table for the times of one grid and those halfway in lambda: for grids of a thousand steps."""

    def __init__(self, process: Process, grid: Tensor) -> None:
        self._process, self.num_train_timesteps = process, process.num_train_timesteps
        self.terminal, self.integer_times = process.terminal, process.integer_times  # type: ignore[misc]
        lams = process.log_snr_half(grid)
        middles = process.time_of_lambda(((lams[:-1] + lams[1:]) / 2).nan_to_num())
        times = torch.cat([grid, middles])
        columns = (*process.levels(times), process.log_snr_half(times), process.index_of_time(times))
        rows = zip(times.tolist(), *columns, strict=True)
        self._rows = {round(t, 9): row for t, *row in rows}
        self._times = {round(row[2].item(), 9): torch.tensor([t], dtype=torch.float64) for t, row in self._rows.items()}

    def _row(self, t: Tensor | float) -> list[Tensor] | None:
        if isinstance(t, float) or t.ndim == 0:
            return self._rows.get(round(float(t), 9))
        row = self._row(t[0]) if len(t) == 1 else None
        return row and [value[None] for value in row]

    def levels(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        row = self._row(t)
        return (row[0], row[1]) if row else self._process.levels(t)

    def log_snr_half(self, t: Tensor | float) -> Tensor:
        row = self._row(t)
        return row[2] if row else self._process.log_snr_half(t)

    def index_of_time(self, t: Tensor | float) -> Tensor:
        row = self._row(t)
        return row[3] if row else self._process.index_of_time(t)

    def time_of_lambda(self, lam: Tensor | float) -> Tensor:
        one = isinstance(lam, Tensor) and lam.shape == (1,)
        known = self._times.get(round(float(lam), 9)) if one else None
        return self._process.time_of_lambda(lam) if known is None else known

    @property
    def start(self) -> float:
        return self._process.start

    def model_time(self, t: Tensor | float) -> Tensor:
        return self._process.model_time(t)

    def time_of_index(self, index: Tensor | float) -> Tensor:
        return self._process.time_of_index(index)


class Draws:
    """Noise that `draw` makes, both for a draw and for a stretch of the path."""

    def __init__(self, draw: Callable[[], Tensor]) -> None:
        self.draw = draw

    def __call__(self) -> Tensor:
        return self.draw()

    def between(self, start: float, end: float) -> Tensor:
        assert 0 <= start < end <= 1
        return self.draw()


def _refuse() -> Tensor:
    raise AssertionError("a deterministic sampler drew noise")


no_noise = Draws(_refuse)
"""For deterministic samplers."""


def last(steps) -> Tensor:
    """The x at which a sampler ends."""
    *_, step = steps
    return step.x


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@lru_cache
def different_grids(process: Process, n: int) -> tuple[Tensor, ...]:
    """The grids of n steps of all schedules, each once."""
    grids = (make_grid(schedule, process, n) for schedule in SCHEDULES)
    return tuple({tuple(grid.tolist()): grid for grid in grids}.values())


def deterministic(name: str) -> dict[str, float]:
    """Options that switch a sampler's noise off."""
    own = inspect.signature(SAMPLERS[name]).parameters
    return {option: 0 for option in ("eta", "restarts") if option in own}


def errors_of(
    name: str, process: Process, make: Callable[[Process, int], Tensor], counts: tuple[int, ...], **options
) -> list[float]:
    """The error at the end against the exact solution, for each number of steps, in float64."""
    errors = []
    for n in counts:
        grid, denoise = make(process, n), GaussianDenoiser(process)
        x = process.initial(normal(8, dtype=torch.float64), grid[0])
        exact = denoise.carry(x, grid[0].item(), grid[-1].item())
        errors.append((last(SAMPLERS[name](denoise, x, grid, no_noise, **options)) - exact).abs().max().item())
    return errors


def slopes(errors: list[float], counts: tuple[int, ...]) -> list[float]:
    """How the errors fall, as a power of the number of steps, between neighbouring counts."""
    return [
        math.log(a / b) / math.log(m / n) for (a, b), (n, m) in zip(pairwise(errors), pairwise(counts), strict=True)
    ]


def even_in_lambda(process: Process, n: int) -> Tensor:
    """n + 1 times in even steps of lambda around 0, where picture and noise are equally strong and all terms show."""
    return process.time_of_lambda(torch.linspace(-0.7, 0.7, n + 1, dtype=torch.float64))


def begun_gently(process: Process, n: int) -> Tensor:
    """The same with the first step cut 2^-12, 2^-11, ..., 1/2 of the way, so that the start costs no order."""
    lams = torch.linspace(-0.7, 0.7, n + 1, dtype=torch.float64)
    cuts = torch.lerp(lams[0], lams[1], 2.0 ** torch.arange(-12, 0, dtype=torch.float64))
    return process.time_of_lambda(torch.cat([lams[:1], cuts, lams[1:]]))


def even_in_angle(process: Process, n: int) -> Tensor:
    """n + 1 times in even steps of atan(sigma / alpha), from pure noise."""
    angles = torch.linspace(math.pi / 2, 0.1, n + 1, dtype=torch.float64)
    return torch.cat([torch.tensor([process.start]), process.time_of_lambda(-angles[1:].tan().log())])
