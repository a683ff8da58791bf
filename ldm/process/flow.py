"""Rectified flow: the straight line between picture and noise."""

from dataclasses import dataclass

from torch import Tensor

from ldm.process.base import Process, as_time


@dataclass(frozen=True)
class Flow(Process):
    """Rectified flow, x_t = (1 - s) x0 + s eps (Liu et al. 2022, eq. 1; Lipman et al. 2023), with a shifted clock s(t).

    Time t in [0, 1] is the even clock of training and of the grids; s(t) = shift t / (1 + (shift - 1) t) spends more of
    it at high noise for shift > 1 (Esser et al. 2024, eq. 23). The network's time input is num_train_timesteps * s, as
    in SD 3.

    Args:
        shift: > 0; 1 leaves the clock even.
        num_train_timesteps: scale of the network's time input.

    Raises:
        ValueError: shift is not positive.
    """

    shift: float = 1.0
    num_train_timesteps: int = 1000

    integer_times = False
    terminal = 0.0

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ValueError(f"shift={self.shift} must be above 0")

    @property
    def start(self) -> float:
        """1, noise alone."""
        return 1.0

    def levels(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """(1 - s(t), s(t))."""
        t = as_time(t)
        sigma = self.shift * t / (1 + (self.shift - 1) * t)
        return 1 - sigma, sigma

    def time_of_lambda(self, lam: Tensor | float) -> Tensor:
        """The t of s(t) = 1 / (1 + e^lambda)."""
        sigma = (-as_time(lam)).sigmoid()
        return sigma / (self.shift - (self.shift - 1) * sigma)

    def model_time(self, t: Tensor | float) -> Tensor:
        """num_train_timesteps * s(t), in [0, num_train_timesteps]."""
        return self.num_train_timesteps * self.sigma(t)

    def time_of_index(self, index: Tensor | float) -> Tensor:
        """(index + 1) / num_train_timesteps."""
        return (as_time(index) + 1) / self.num_train_timesteps

    def index_of_time(self, t: Tensor | float) -> Tensor:
        """The inverse of `time_of_index`."""
        return as_time(t) * self.num_train_timesteps - 1
