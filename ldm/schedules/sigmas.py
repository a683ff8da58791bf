"""Schedules over sigma, the noise of the picture at scale 1: sigma(t) / alpha(t), in (0, infinity].

Times fall between the training timesteps; the network receives the fraction, as in k-diffusion (diffusers' DPM-Solver
rounds it, its Euler and Heun do not).

All of them take the same range. By default it is that of the process: sigma_min is the sigma of training index 0 and
sigma_max that of the start. Where the start is infinite (zero-terminal SNR, flow) the grid still begins there, and the
other points follow the formula from `MOST_NOISE`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ldm.naming import look_up
from ldm.process import Process
from ldm.schedules.spacing import close_times, leading, linspace, trailing

MOST_NOISE = 80.0
"""The sigma that stands for infinity: SNR 1.6e-4, the start of Karras et al. 2022, table 1."""

_SPACINGS: dict[str, Callable[..., Tensor]] = {"leading": leading, "trailing": trailing, "linspace": linspace}


def sigma_range(
    process: Process, n: int, sigma_min: float | None, sigma_max: float | None, spacing: str | None
) -> tuple[float, float, float | None]:
    """The range of sigma that a schedule spans.

    Args:
        process: serves what is not given.
        n: number of steps.
        sigma_min: least noise above none.
        sigma_max: most noise.
        spacing: take what is not given from the first and last point of the even spacing of that name (`leading` with
            offset 1), as diffusers' Euler and Heun do; its DPM-Solver, k-diffusion and A1111 take the whole range.

    Returns:
        (sigma_min, sigma_max, the time to begin at exactly, or None where sigma_max was given). sigma_max is infinite
        where the process begins with noise alone.

    Raises:
        ValueError: n < 1, an unknown spacing, or not 0 < sigma_min < sigma_max within the process's range.
    """
    if n < 1:
        raise ValueError(f"num_inference_steps={n} must be at least 1")
    times = torch.tensor([process.start, process.time_of_index(0)], dtype=torch.float64)
    if spacing is not None:
        lay = look_up("spacing", spacing, _SPACINGS)
        times = (lay(process, n, offset=1) if lay is leading else lay(process, n))[[0, n - 1]]
    most, least = process.log_snr_half(times).neg().exp().tolist()
    low, high = least if sigma_min is None else sigma_min, most if sigma_max is None else sigma_max
    limit = process.log_snr_half(process.start).neg().exp().item()
    if not (0 < low < high or (n == 1 and 0 < low == high)) or high > limit:
        raise ValueError(f"sigma_min={low:g}, sigma_max={high:g} must satisfy 0 < sigma_min < sigma_max <= {limit:g}")
    return low, high, times[0].item() if sigma_max is None else None


def finite(sigma: float) -> float:
    """sigma, or what stands for it where only noise is left."""
    return MOST_NOISE if math.isinf(sigma) else sigma


def close_sigmas(process: Process, sigmas: Tensor, start: float | None) -> Tensor:
    """The grid through sigmas `(n,)`, the first of them at the time `start` exactly where that is given."""
    times = process.time_of_lambda(-sigmas.log())
    if start is not None:
        times[0] = start
    return close_times(process, times)


def _descent(n: int) -> Tensor:
    """n numbers in even steps from 1 to 0; a single one is 1."""
    return 1 - torch.linspace(0, 1, n, dtype=torch.float64)


def _check_rho(rho: float) -> None:
    if not rho > 0:
        raise ValueError(f"rho={rho} must be above 0")


def karras(
    process: Process,
    n: int,
    *,
    rho: float = 7.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    spacing: str | None = None,
) -> Tensor:
    """sigma_i = (max^(1/rho) + i / (n - 1) (min^(1/rho) - max^(1/rho)))^rho, then 0 (Karras et al. 2022, eq. 5).

    Args:
        process: serves the range where it is not given.
        n: number of steps.
        rho: > 0; larger spends more steps near the picture.
        sigma_min: least noise above none, see `sigma_range`.
        sigma_max: most noise.
        spacing: the even spacing that gives what of the range is None.

    Raises:
        ValueError: n < 1, rho <= 0, or a range outside that of the process.
    """
    low, high, start = sigma_range(process, n, sigma_min, sigma_max, spacing)
    _check_rho(rho)
    least, most = low ** (1 / rho), finite(high) ** (1 / rho)
    return close_sigmas(process, (most + (1 - _descent(n)) * (least - most)) ** rho, start)


def exponential(
    process: Process,
    n: int,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    spacing: str | None = None,
) -> Tensor:
    """Even steps in log(sigma), that is in lambda (`get_sigmas_exponential` in k-diffusion; Lu et al. 2022).

    Args:
        process: serves the range where it is not given.
        n: number of steps.
        sigma_min: least noise above none, see `sigma_range`.
        sigma_max: most noise.
        spacing: the even spacing that gives what of the range is None.

    Raises:
        ValueError: n < 1, or a range outside that of the process.
    """
    return polyexponential(process, n, sigma_min=sigma_min, sigma_max=sigma_max, spacing=spacing)


def polyexponential(
    process: Process,
    n: int,
    *,
    rho: float = 1.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    spacing: str | None = None,
) -> Tensor:
    """log(sigma_i) = log(min) + (1 - i / (n - 1))^rho log(max / min) (`get_sigmas_polyexponential` in k-diffusion).

    Args:
        process: serves the range where it is not given.
        n: number of steps.
        rho: > 0; 1 is `exponential`, larger spends more steps near the picture.
        sigma_min: least noise above none, see `sigma_range`.
        sigma_max: most noise.
        spacing: the even spacing that gives what of the range is None.

    Raises:
        ValueError: n < 1, rho <= 0, a rho so large that steps coincide, or a range outside that of the process.
    """
    low, high, start = sigma_range(process, n, sigma_min, sigma_max, spacing)
    _check_rho(rho)
    logs = math.log(low) + _descent(n) ** rho * math.log(finite(high) / low)
    return close_sigmas(process, logs.exp(), start)


def kl_optimal(process: Process, n: int, *, sigma_min: float | None = None, sigma_max: float | None = None) -> Tensor:
    """sigma_i = tan((1 - i / (n - 1)) atan(max) + i / (n - 1) atan(min)), then 0.

    The steps that least increase the KL divergence for Gaussian data (Sabour et al. 2024, "Align Your Steps", eq. 8;
    `kl_optimal` in ComfyUI). Needs no stand-in for an infinite start. A1111's of that name lays one point more and
    stops at sigma_min, with noise left in the picture.

    Args:
        process: serves the range where it is not given.
        n: number of steps.
        sigma_min: least noise above none, see `sigma_range`.
        sigma_max: most noise.

    Raises:
        ValueError: n < 1, or a range outside that of the process.
    """
    low, high, start = sigma_range(process, n, sigma_min, sigma_max, None)
    weight = _descent(n)
    return close_sigmas(process, (weight * math.atan(high) + (1 - weight) * math.atan(low)).tan(), start)
