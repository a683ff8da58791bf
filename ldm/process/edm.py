"""The variance-exploding process of Karras et al. 2022 ("EDM")."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.process.base import Process, as_time, per_sample


@dataclass(frozen=True)
class EDM(Process):
    """x_sigma = x0 + sigma eps; time is sigma itself (Karras et al. 2022, table 1), data of variance 1.

    The network sees x / sqrt(1 + sigma^2) and the time input log(sigma) / 4. With `v_prediction` this is, up to the
    sign of the network's output, the preconditioning of Karras et al. for sigma_data = 1. Training indices follow their
    eq. 5.

    Args:
        sigma_min: least noise above none, > 0.
        sigma_max: most noise, > sigma_min.
        rho: bends the axis of training indices, eq. 5.
        num_train_timesteps: length of that axis.

    Raises:
        ValueError: not 0 < sigma_min < sigma_max.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    num_train_timesteps: int = 1000

    integer_times = False
    terminal = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_min={self.sigma_min} and sigma_max={self.sigma_max} must satisfy 0 < min < max")

    @property
    def start(self) -> float:
        """`sigma_max`."""
        return self.sigma_max

    def levels(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """(1, t)."""
        sigma = as_time(t)
        return torch.ones_like(sigma), sigma

    def time_of_lambda(self, lam: Tensor | float) -> Tensor:
        """e^-lambda, at most `sigma_max`."""
        return (-as_time(lam)).exp().clamp(max=self.sigma_max)

    def model_time(self, t: Tensor | float) -> Tensor:
        """c_noise = log(sigma) / 4."""
        return as_time(t).log() / 4

    def scale_input(self, x: Tensor, t: Tensor | float) -> Tensor:
        """c_in x = x / sqrt(1 + sigma^2); t is one time or one per sample `(B,)`."""
        return per_sample(torch.hypot(*self.levels(t)).reciprocal(), x) * x

    def time_of_index(self, index: Tensor | float) -> Tensor:
        """Eq. 5 with i = num_train_timesteps - 1 - index; between -1 and 0 sigma is linear."""
        index = as_time(index)
        least, most = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        ramp = least + index.clamp(min=0) / (self.num_train_timesteps - 1) * (most - least)
        return torch.where(index < 0, (1 + index) * self.sigma_min, ramp**self.rho)

    def index_of_time(self, t: Tensor | float) -> Tensor:
        """The inverse of `time_of_index`."""
        t = as_time(t)
        least, most = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        ramp = (t.clamp(min=self.sigma_min) ** (1 / self.rho) - least) / (most - least)
        return torch.where(t < self.sigma_min, t / self.sigma_min - 1, ramp * (self.num_train_timesteps - 1))
