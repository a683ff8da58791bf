"""The schedule of Mochi and Movie Gen: even small steps from noise, then ever larger ones."""

import torch
from torch import Tensor

from ldm.process import Flow, Process
from ldm.schedules.sigmas import close_sigmas, finite
from ldm.schedules.spacing import check_count, close_times


def linear_quadratic(
    process: Process, n: int, *, threshold_noise: float = 0.025, linear_steps: int | None = None
) -> Tensor:
    """sigma falls by `threshold_noise` of its range in even steps, and by a parabola from there to 0.

    ("Movie Gen", Polyak et al. 2024; `linear_quadratic` in ComfyUI, after Mochi.) The parabola continues value and
    slope of the line. Made for flow models, whose sigma is the noise's share of x; elsewhere it counts in sigma / alpha
    and spends half of the steps next to pure noise, as in ComfyUI.

    Args:
        process: serves the range of sigma.
        n: number of steps.
        threshold_noise: in (0, 1), the part of sigma that the even steps take away.
        linear_steps: how many even steps, 1 to n - 1; half of all where it is None. A single step has none.

    Raises:
        ValueError: n < 1, threshold_noise or linear_steps out of range.
    """
    check_count(process, 0, n)
    if not 0 < threshold_noise < 1:
        raise ValueError(f"threshold_noise={threshold_noise} must be above 0 and below 1")
    if n == 1:
        return close_times(process, torch.tensor([process.start], dtype=torch.float64))
    line = n // 2 if linear_steps is None else linear_steps
    if not 1 <= line < n:
        raise ValueError(f"linear_steps={line} must be 1 to {n - 1}, one less than the steps")
    rate = threshold_noise / line
    i = torch.arange(n, dtype=torch.float64)
    beyond = (i - line).clamp(min=0)
    rest = n - line
    taken = rate * i + (1 - rate * n) / rest**2 * beyond**2
    sigma = 1 - taken
    if isinstance(process, Flow):
        times = process.time_of_lambda((1 - sigma).log() - sigma.log())
        times[0] = process.start
        return close_times(process, times)
    most = finite(process.log_snr_half(process.start).neg().exp().item())
    return close_sigmas(process, most * sigma, process.start)
