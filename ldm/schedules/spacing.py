"""Even spacings of the training indices. "Table 2" is of Lin et al. 2023, "Common Diffusion Noise Schedules..."."""

import torch
from torch import Tensor

from ldm.process import Process


def close(process: Process, indices: Tensor) -> Tensor:
    """The grid through training indices `(n,)`, closed by the terminal point."""
    return close_times(process, process.time_of_index(indices))


def close_times(process: Process, times: Tensor) -> Tensor:
    """The grid through times `(n,)`, closed by the terminal point.

    Raises:
        ValueError: the grid would not descend strictly; a sampler would divide by the empty step.
    """
    grid = torch.cat([times, torch.tensor([process.terminal], dtype=torch.float64)])
    stuck = (grid.diff() >= 0).nonzero()
    if len(stuck):
        i = int(stuck[0])
        pair = " and ".join(f"{t:.6g}" for t in grid[i : i + 2].tolist())
        raise ValueError(f"steps {i} and {i + 1} of {len(times)} would be at the times {pair}, which do not descend")
    return grid


def check_count(process: Process, points: int, n: int, *, whole: bool | None = None) -> None:
    """Refuse n < 1, and more points than there are training indices where those are the only times there are.

    Args:
        process: whose times they are.
        points: how many points the grid has besides the terminal one.
        n: number of steps, for the error.
        whole: whether the points must be whole indices; by default where the process has no other training times.
    """
    if n < 1:
        raise ValueError(f"num_inference_steps={n} must be at least 1")
    if (process.integer_times if whole is None else whole) and points > process.num_train_timesteps:
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
    check_count(process, points, n)
    if offset < 0:
        raise ValueError(f"offset={offset} must not be negative")
    total = process.num_train_timesteps
    stride = total // points if process.integer_times else total / points
    indices = torch.arange(points - 1, points - 1 - n, -1, dtype=torch.float64) * stride
    return close(process, indices + min(offset, total - 1 - indices[0].item()))


def trailing(process: Process, n: int, *, original_steps: int | None = None) -> Tensor:
    """Indices T - 1, T - 1 - T / n, ... (table 2, "trailing"): begins at pure noise, the grid for zero-terminal SNR.

    Rounded where the process has whole timesteps.

    Args:
        process: T is its `num_train_timesteps`.
        n: number of steps, 1 to T.
        original_steps: visit only those indices that a distilled model was taught, which are the trailing grid of so
            many steps in strides of T // original_steps; each point moves up to the next one (Luo et al. 2023, "Latent
            Consistency Models", section 4.3; `original_inference_steps` in diffusers). With n above it: no effect.

    Raises:
        ValueError: n or original_steps out of range.
    """
    check_count(process, n, n)
    total, i = process.num_train_timesteps, torch.arange(n, dtype=torch.float64)
    if original_steps is not None and not 1 <= original_steps <= total:
        raise ValueError(f"original_steps={original_steps} must be 1 to {total}")
    if original_steps is not None and n <= original_steps:
        taught = original_steps - (i * (original_steps / n)).floor()
        return close(process, taught * (total // original_steps) - 1)
    indices = total - i * (total / n)
    return close(process, (indices.round() if process.integer_times else indices) - 1)


def linspace(process: Process, n: int, *, rounded: bool = True, skip_last: bool = False, last: float = 0.0) -> Tensor:
    """n indices in even steps from T - 1 to 0, both included (table 2, "linspace").

    Args:
        process: T is its `num_train_timesteps`.
        n: number of steps; a single one begins at T - 1 (at 0 in diffusers, where nothing is left to denoise).
        rounded: to whole timesteps where the process has them, as diffusers' DDIM and DDPM do; its Euler and Heun, and
            k-diffusion, do not round.
        skip_last: lay n + 1 points and let the terminal point replace the last, as diffusers' DPM-Solver family does.
        last: the index to end at in place of 0, in (-1, T - 1). diffusers' flow matching shifts its last level twice.

    Raises:
        ValueError: n or last out of range.
    """
    points = n + 1 if skip_last else n
    check_count(process, points, n)
    first = process.num_train_timesteps - 1
    if not -1 < last < first:
        raise ValueError(f"last={last} must be above -1 and below {first}")
    indices = first - torch.linspace(0, first - last, points, dtype=torch.float64)[:n]
    return close(process, indices.round() if rounded and process.integer_times else indices)


def normal(process: Process, n: int) -> Tensor:
    """`linspace` without rounding: `normal` in ComfyUI, `Uniform` in A1111, `get_sigmas` in k-diffusion.

    Raises:
        ValueError: n out of range.
    """
    return linspace(process, n, rounded=False)


def sgm_uniform(process: Process, n: int) -> Tensor:
    """n + 1 indices in even steps from T - 1 to 0, the last of which gives way to the terminal point.

    `sgm_uniform` in ComfyUI and A1111, after Stability's generative-models; unrounded. Begins at pure noise and ends
    well above index 0, like `trailing`; the usual choice for distilled models.

    Raises:
        ValueError: n < 1.
    """
    check_count(process, n, n)
    first = process.num_train_timesteps - 1
    return close(process, first - torch.arange(n, dtype=torch.float64) * (first / n))


def simple(process: Process, n: int) -> Tensor:
    """Indices T - 1 - floor(i T / n), i = 0, ..., n - 1: every (T / n)-th level of the table (`simple` in ComfyUI).

    `trailing` where n divides T. Whole indices for every process, hence n at most T.

    Raises:
        ValueError: n out of range.
    """
    check_count(process, n, n, whole=True)
    total = process.num_train_timesteps
    # in whole numbers, for i * (T / n) in floating point may fall just below the level that is meant
    return close(process, total - 1 - (torch.arange(n) * total // n).double())
