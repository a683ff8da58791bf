"""The variance-preserving process of DDPM and Stable Diffusion, given by a table of betas."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ldm.naming import look_up
from ldm.process.base import Process, as_time


def linear_betas(beta_start: float, beta_end: float, count: int) -> Tensor:
    """Betas in even steps (Ho et al. 2020, section 4). Returns float64 `(count,)`."""
    return torch.linspace(beta_start, beta_end, count, dtype=torch.float64)


def scaled_linear_betas(beta_start: float, beta_end: float, count: int) -> Tensor:
    """Betas whose square roots go in even steps (Rombach et al. 2022). Returns float64 `(count,)`."""
    return torch.linspace(beta_start**0.5, beta_end**0.5, count, dtype=torch.float64) ** 2


def squared_cosine_betas(beta_start: float, beta_end: float, count: int) -> Tensor:
    """Betas of the squared-cosine alpha_bar, capped at 0.999 (Nichol and Dhariwal 2021, eq. 17); no range."""
    steps = torch.arange(count + 1, dtype=torch.float64) / count
    alpha_bar = torch.cos((steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


BETA_SCHEDULES: dict[str, Callable[[float, float, int], Tensor]] = {
    "linear": linear_betas,
    "scaled_linear": scaled_linear_betas,
    "squaredcos_cap_v2": squared_cosine_betas,
}


def rescale_to_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Shift and scale sqrt(alpha_bar) so for a last entry of exactly 0, the first kept (Lin et al. 2023, alg. 1)."""
    root = alphas_cumprod.sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * first / (first - last)) ** 2


@dataclass(frozen=True)
class DiscreteVP(Process):
    """Variance-preserving process, alpha^2 + sigma^2 = 1, from a table of betas (Ho et al. 2020, eq. 4).

    Time is the training timestep: whole numbers 0 (least noise) to T - 1 (most) are the table's entries. Between two
    entries log(sigma / alpha) is linear in t, as in k-diffusion and diffusers. Time -1 is the terminal point. Beside an
    infinite lambda that is impossible; there sigma (between -1 and 0) or alpha (towards a zero-SNR end) is linear.

    Args:
        beta_schedule: `linear | scaled_linear | squaredcos_cap_v2`.
        beta_start: first beta, in (0, 1).
        beta_end: last beta, in (0, 1).
        num_train_timesteps: T, the length of the table.
        betas: the table itself, T numbers, instead of the three fields above.
        zero_terminal_snr: rescale so that alpha(T - 1) = 0 (`rescale_betas_zero_snr` in diffusers).
        final_alpha_one: at the terminal point alpha = 1 and sigma = 0; otherwise the levels of timestep 0 are repeated
            there (`set_alpha_to_one`, `final_sigmas_type` in diffusers).

    Raises:
        ValueError: an unknown beta_schedule, a table of the wrong length, betas outside (0, 1).
    """

    beta_schedule: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_train_timesteps: int = 1000
    betas: tuple[float, ...] | None = None
    zero_terminal_snr: bool = False
    final_alpha_one: bool = True

    integer_times = True
    terminal = -1.0

    def __post_init__(self) -> None:
        look_up("beta_schedule", self.beta_schedule, BETA_SCHEDULES)
        if self.num_train_timesteps < 2:
            raise ValueError(f"num_train_timesteps={self.num_train_timesteps} must be at least 2")
        if self.betas is not None and len(self.betas) != self.num_train_timesteps:
            raise ValueError(
                f"betas has {len(self.betas)} values, num_train_timesteps={self.num_train_timesteps}; make them equal"
            )
        table = self.beta_table
        if not bool(((table > 0) & (table < 1)).all()):
            raise ValueError(f"betas go from {table.min().item():g} to {table.max().item():g}; keep them inside (0, 1)")

    @property
    def start(self) -> float:
        """The last training timestep, T - 1."""
        return float(self.num_train_timesteps - 1)

    @cached_property
    def beta_table(self) -> Tensor:
        """The betas before any rescaling, float64 `(T,)`."""
        if self.betas is not None:
            return torch.tensor(self.betas, dtype=torch.float64)
        return BETA_SCHEDULES[self.beta_schedule](self.beta_start, self.beta_end, self.num_train_timesteps)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """alpha^2 at the timesteps 0 to T - 1, float64 `(T,)`."""
        alphas_cumprod = torch.cumprod(1 - self.beta_table, dim=0)
        return rescale_to_zero_terminal_snr(alphas_cumprod) if self.zero_terminal_snr else alphas_cumprod

    @cached_property
    def _lambdas(self) -> Tensor:
        """lambda at the times -1 to T - 1, float64 `(T + 1,)`, descending; infinite at exact ends."""
        lambdas = 0.5 * (self.alphas_cumprod.log() - (1 - self.alphas_cumprod).log())
        terminal = torch.full((1,), torch.inf, dtype=torch.float64) if self.final_alpha_one else lambdas[:1]
        return torch.cat([terminal, lambdas])

    def levels(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at t in [-1, T - 1]; lambda is linear between timesteps, sigma or alpha at infinite ends."""
        t = as_time(t)
        if bool(((t < self.terminal) | (t > self.start)).any()):
            raise ValueError(f"t={t.flatten().tolist()[:4]} leaves the range [{self.terminal:g}, {self.start:g}]")
        low = t.floor().clamp(max=self.start - 1)
        position = (low + 1).long()
        weight, left, right = t - low, self._lambdas[position], self._lambdas[position + 1]
        lam = torch.lerp(left, right, weight)
        alpha, sigma = torch.sigmoid(2 * lam).sqrt(), torch.sigmoid(-2 * lam).sqrt()
        near_picture, near_noise = torch.isposinf(left), torch.isneginf(right)
        sigma = torch.where(near_picture, weight * torch.sigmoid(-2 * right).sqrt(), sigma)
        alpha = torch.where(near_picture, (1 - sigma**2).sqrt(), alpha)
        alpha = torch.where(near_noise, (1 - weight) * torch.sigmoid(2 * left).sqrt(), alpha)
        sigma = torch.where(near_noise, (1 - alpha**2).sqrt(), sigma)
        return alpha, sigma

    def time_of_lambda(self, lam: Tensor | float) -> Tensor:
        """The inverse of lambda between timesteps, as `levels` interpolates it; clamped to the range."""
        table = self._lambdas
        lam = as_time(lam).clamp(table[-1], table[0])
        position = torch.searchsorted(-table, -lam, right=True).clamp(1, self.num_train_timesteps)
        left, right = table[position - 1], table[position]
        weight = (left - lam) / (left - right)
        near_picture, near_noise = torch.isposinf(left), torch.isneginf(right)
        weight = torch.where(near_picture, (torch.sigmoid(-2 * lam) / torch.sigmoid(-2 * right)).sqrt(), weight)
        weight = torch.where(near_noise, 1 - (torch.sigmoid(2 * lam) / torch.sigmoid(2 * left)).sqrt(), weight)
        return position - 2 + weight

    def model_time(self, t: Tensor | float) -> Tensor:
        """The (fractional) training timestep in [0, T - 1]."""
        return as_time(t).clamp(min=0)

    def time_of_index(self, index: Tensor | float) -> Tensor:
        """Time is the training index itself."""
        return as_time(index)

    def index_of_time(self, t: Tensor | float) -> Tensor:
        """Time is the training index itself."""
        return as_time(t)
