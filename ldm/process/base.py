"""The base class of diffusion processes: x_t = alpha(t) x0 + sigma(t) eps."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


def as_time(t: Tensor | float) -> Tensor:
    """Time or lambda as a float64 tensor on the CPU (any shape; a float becomes 0-dimensional)."""
    return torch.as_tensor(
        t, dtype=torch.float64, device="cpu"
    )  # the tables are there, and not every device has float64


def per_sample(level: Tensor | float, x: Tensor) -> Tensor | float:
    """Shape a level so that it multiplies x.

    Args:
        level: a number, a 0-dimensional tensor, or one value per sample `(B,)`.
        x: `(B, C, H, W)`.

    Returns:
        The number itself, or a tensor `(B, 1, 1, 1)` in x's dtype on x's device.
    """
    if not isinstance(level, Tensor):
        return level
    return level.to(x.device, x.dtype).reshape(level.shape + (1,) * (x.ndim - level.ndim) if level.ndim else ())


class Process(ABC):
    """A Gaussian process that turns pictures into noise: x_t = alpha(t) x0 + sigma(t) eps, eps ~ N(0, I).

    Time runs down from `start` (noisiest) to `terminal` (no noise left). All functions of time take a float or a tensor
    of any shape and return a float64 tensor of that shape on the CPU. `lambda` is half the log signal-to-noise ratio,
    log(alpha / sigma) (Kingma et al. 2021, "Variational Diffusion Models"; Lu et al. 2022, "DPM-Solver").

    Times also have a training index in [-1, num_train_timesteps - 1], on which the grids of `ldm.schedules` are
    defined: `num_train_timesteps - 1` is `start` and -1 is `terminal`.
    """

    terminal: ClassVar[float]
    """The time at which no noise is left."""
    integer_times: ClassVar[bool]
    """Whether the network was trained on whole indices only, so that grids should prefer them."""
    num_train_timesteps: int
    """Length of the axis of training indices."""

    @property
    @abstractmethod
    def start(self) -> float:
        """The noisiest time."""

    @abstractmethod
    def levels(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at time t."""

    def alpha(self, t: Tensor | float) -> Tensor:
        """Scale of the picture at time t."""
        return self.levels(t)[0]

    def sigma(self, t: Tensor | float) -> Tensor:
        """Scale of the noise at time t."""
        return self.levels(t)[1]

    @abstractmethod
    def time_of_lambda(self, lam: Tensor | float) -> Tensor:
        """The time at which log(alpha / sigma) is lam, the inverse of `log_snr_half`; clamped to the range."""

    @abstractmethod
    def model_time(self, t: Tensor | float) -> Tensor:
        """The network's time input at time t."""

    @abstractmethod
    def time_of_index(self, index: Tensor | float) -> Tensor:
        """The time of a (fractional) training index in [-1, num_train_timesteps - 1]."""

    @abstractmethod
    def index_of_time(self, t: Tensor | float) -> Tensor:
        """The (fractional) training index of time t, the inverse of `time_of_index`."""

    def log_snr_half(self, t: Tensor | float) -> Tensor:
        """lambda(t) = log(alpha / sigma): -inf where only noise is left, +inf where no noise is left."""
        alpha, sigma = self.levels(t)
        return alpha.log() - sigma.log()

    def progress(self, t: Tensor | float) -> Tensor:
        """How far time t is on the way from `start` (0) to `terminal` (1), measured in training indices."""
        return (self.num_train_timesteps - 1 - self.index_of_time(t)) / self.num_train_timesteps

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        """x_t = alpha(t) x0 + sigma(t) noise.

        Args:
            x0: clean samples `(B, C, H, W)`.
            noise: standard normal, like x0.
            t: one time for all samples or one for each `(B,)`.
        """
        alpha, sigma = self.levels(t)
        return per_sample(alpha, x0) * x0 + per_sample(sigma, x0) * noise

    def initial(self, noise: Tensor, t: Tensor | float) -> Tensor:
        """The x to begin sampling from at time t: noise scaled to the variance that x has for data of variance 1.

        For a VP process that is the noise itself (DDIM; DPM-Solver and `leading` grids in diffusers; ComfyUI).
        k-diffusion, and diffusers' Euler family on other grids, begin with sigma(t) * noise, which is 0.2 % less for
        Stable Diffusion.
        """
        return per_sample(torch.hypot(*self.levels(t)), noise) * noise

    def scale_input(self, x: Tensor, t: Tensor | float) -> Tensor:
        """x as the network sees it (c_in of Karras et al. 2022, table 1); x itself except for EDM."""
        return x
