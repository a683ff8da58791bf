"""Grids: the times that a sampler visits, from noise to the terminal point.

A grid is a float64 tensor `(n + 1,)`, strictly descending, that ends at `process.terminal`. Even spacings are laid on
the process's training indices, so that each schedule serves VP, EDM and flow; "table 2" below is of Lin et al. 2023,
"Common Diffusion Noise Schedules and Sample Steps are Flawed".
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ldm.naming import check_options, look_up
from ldm.process import Process

OptionValue = int | float | bool | None

MOST_NOISE = 80.0
"""The sigma / alpha that stands for infinity in `karras`: SNR 1.6e-4, the start of Karras et al. 2022, table 1."""


def _close(process: Process, indices: Tensor) -> Tensor:
    """The grid through training indices `(n,)`, closed by the terminal point."""
    times = process.time_of_index(indices)
    return torch.cat([times, torch.tensor([process.terminal], dtype=torch.float64)])


def _check_count(process: Process, points: int, n: int) -> None:
    if n < 1:
        raise ValueError(f"num_inference_steps={n} must be at least 1")
    if process.integer_times and points > process.num_train_timesteps:
        most = process.num_train_timesteps - points + n
        raise ValueError(f"num_inference_steps={n} is more than the training timesteps allow; use 1 to {most}")


def leading(process: Process, n: int, *, offset: int = 0, skip_last: bool = False) -> Tensor:
    """Indices i * (T // n) + offset, i = n - 1, ..., 0 (DDIM and Stable Diffusion; table 2, "leading").

    Never visits the noisiest time, hence a poor fit for few steps and wrong for zero-terminal SNR.

    Args:
        process: T is its `num_train_timesteps`; a process without whole timesteps takes the stride T / n unrounded.
        n: number of steps, 1 to T (T - 1 with skip_last).
        offset: `steps_offset` in diffusers, 1 for Stable Diffusion. Cut where it would leave the table (1000 steps of
            1000 with offset 1 begin at 999, where diffusers fails with an IndexError).
        skip_last: lay n + 1 points and let the terminal point replace the last, as diffusers' DPM-Solver family does.

    Raises:
        ValueError: n or offset out of range.
    """
    points = n + 1 if skip_last else n
    _check_count(process, points, n)
    if offset < 0:
        raise ValueError(f"offset={offset} must not be negative")
    total = process.num_train_timesteps
    stride = total // points if process.integer_times else total / points
    indices = torch.arange(points - 1, points - 1 - n, -1, dtype=torch.float64) * stride
    return _close(process, indices + min(offset, total - 1 - indices[0].item()))


def trailing(process: Process, n: int) -> Tensor:
    """Indices T - 1, T - 1 - T / n, ... (table 2, "trailing"): begins at pure noise, the grid for zero-terminal SNR.

    Rounded where the process has whole timesteps.

    Raises:
        ValueError: n out of range.
    """
    _check_count(process, n, n)
    total = process.num_train_timesteps
    indices = total - torch.arange(n, dtype=torch.float64) * (total / n)
    return _close(process, (indices.round() if process.integer_times else indices) - 1)


def linspace(process: Process, n: int, *, rounded: bool = True, skip_last: bool = False) -> Tensor:
    """n indices in even steps from T - 1 to 0, both included (table 2, "linspace").

    Args:
        process: T is its `num_train_timesteps`.
        n: number of steps; a single one begins at T - 1 (at 0 in diffusers, where nothing is left to denoise).
        rounded: to whole timesteps where the process has them, as diffusers' DDIM and DDPM do; its Euler and Heun, and
            k-diffusion, do not round.
        skip_last: lay n + 1 points and let the terminal point replace the last, as diffusers' DPM-Solver family does.

    Raises:
        ValueError: n out of range.
    """
    points = n + 1 if skip_last else n
    _check_count(process, points, n)
    last = process.num_train_timesteps - 1
    indices = last - torch.linspace(0, last, points, dtype=torch.float64)[:n]
    return _close(process, indices.round() if rounded and process.integer_times else indices)


def karras(
    process: Process, n: int, *, rho: float = 7.0, sigma_min: float | None = None, sigma_max: float | None = None
) -> Tensor:
    """sigma_i = (max^(1/rho) + i / (n - 1) (min^(1/rho) - max^(1/rho)))^rho, then 0 (Karras et al. 2022, eq. 5).

    sigma is the noise of the picture at scale 1, sigma(t) / alpha(t). Times fall between the training timesteps; the
    network is told the fraction, as in k-diffusion (diffusers' DPM-Solver rounds it, its Euler and Heun do not).

    Args:
        process: serves the range where it is not given.
        n: number of steps.
        rho: > 0; larger spends more steps near the picture.
        sigma_min: least noise above none; by default that of training index 0.
        sigma_max: most noise; by default the process's start. Where that is infinite (zero-terminal SNR, flow) the grid
            still begins there, and the other points follow the formula from `MOST_NOISE`.

    Raises:
        ValueError: n < 1, rho <= 0, or not 0 < sigma_min < sigma_max within the process's range.
    """
    if n < 1:
        raise ValueError(f"num_inference_steps={n} must be at least 1")
    least, most = (process.log_snr_half(t).neg().exp().item() for t in (process.time_of_index(0), process.start))
    low = least if sigma_min is None else sigma_min
    high = sigma_max
    if high is None:
        high = MOST_NOISE if most == torch.inf else most
    if not 0 < low < high <= most:
        raise ValueError(f"sigma_min={low:g}, sigma_max={high:g} must satisfy 0 < sigma_min < sigma_max <= {most:g}")
    if not rho > 0:
        raise ValueError(f"rho={rho} must be above 0")
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    sigmas = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    times = process.time_of_lambda(-sigmas.log())
    if sigma_max is None:
        times[0] = process.start
    return torch.cat([times, torch.tensor([process.terminal], dtype=torch.float64)])


SCHEDULES: dict[str, Callable[..., Tensor]] = {
    "leading": leading,
    "trailing": trailing,
    "linspace": linspace,
    "karras": karras,
}


def make_grid(name: str, process: Process, n: int, options: Mapping[str, OptionValue] | None = None) -> Tensor:
    """The grid of a schedule by name.

    Args:
        name: a key of `SCHEDULES`.
        process: whose times the grid holds.
        n: number of steps (`num_inference_steps`).
        options: the schedule's own, e.g. `{"offset": 1}` for `leading`.

    Raises:
        ValueError: an unknown name or option (offers the nearest), or a value that the schedule refuses.
    """
    schedule = look_up("schedule", name, SCHEDULES)
    check_options(f"schedule {name!r}", schedule, options or {})
    return schedule(process, n, **(options or {}))
