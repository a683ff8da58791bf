"""Schedules that were optimised for few steps of a given model, as published tables: Align Your Steps and GITS."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ldm.naming import look_up
from ldm.process import Process
from ldm.schedules.sigmas import close_sigmas
from ldm.schedules.spacing import check_count

# sigma at the 11 ends of 10 steps, as published with the paper (research.nvidia.com/labs/toronto-ai/AlignYourSteps).
_TABLES = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
# sigma at the 11 ends of 10 steps, as ComfyUI and Forge have them (GITS by github.com/zju-pi/diff-sampler).
_GITS = {
    "sd15": (14.615, 4.617, 2.507, 1.236, 0.702, 0.402, 0.240, 0.156, 0.104, 0.094, 0.029),
    "sdxl": (14.615, 4.734, 2.567, 1.529, 0.987, 0.652, 0.418, 0.268, 0.179, 0.127, 0.029),
}


def align_your_steps(process: Process, n: int, *, family: str = "sd15") -> Tensor:
    """NVIDIA's sigmas for 10 steps (Sabour et al. 2024, "Align Your Steps"); for other n linear in log(sigma).

    The first of a table is the noisiest level of its model, and becomes the process's start; the last becomes the
    terminal point, as NVIDIA and ComfyUI have it (A1111 keeps it and appends 0, which takes a step more).

    Args:
        process: any whose start is above the table's second sigma.
        n: number of steps.
        family: sd15 | sdxl | svd, the model that the steps were optimised for. The process does not decide between the
            tables: Stable Diffusion 1.5, 2.1 and XL have the same.

    Raises:
        ValueError: n < 1, an unknown family, or one whose noise is beyond that of the process.
    """
    return _published(_TABLES, family, process, n)


def gits(process: Process, n: int, *, family: str = "sd15") -> Tensor:
    """The sigmas for 10 steps along which the ODE bends least (Chen et al. 2024, "Geometry-Inspired Time Scheduling").

    `Align Your Steps GITS` in Forge; ends and other n as in `align_your_steps`.

    Args:
        process: any whose start is above the table's second sigma.
        n: number of steps.
        family: sd15 | sdxl, the model whose trajectories were measured.

    Raises:
        ValueError: n < 1, an unknown family, or one whose noise is beyond that of the process.
    """
    return _published(_GITS, family, process, n)


def _published(tables: Mapping[str, tuple[float, ...]], family: str, process: Process, n: int) -> Tensor:
    """The grid through a family's table; for another n its points lie between in even steps, linear in log(sigma)."""
    table = look_up("family", family, tables)
    check_count(process, 0, n)
    limit = process.log_snr_half(process.start).neg().exp().item()
    if table[1] >= limit:
        raise ValueError(f"family={family!r} goes on to sigma {table[1]:g}, but this process begins at {limit:g}")
    logs = torch.tensor(table, dtype=torch.float64).log()
    position = torch.arange(n, dtype=torch.float64) * ((len(table) - 1) / n)
    low = position.long()
    between = torch.lerp(logs[low], logs[low + 1], position - low)
    return close_sigmas(process, between.exp(), process.start)
