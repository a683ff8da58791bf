"""NVIDIA's schedules that were optimised for few steps of a given model (Sabour et al. 2024, "Align Your Steps")."""

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


def align_your_steps(process: Process, n: int, *, family: str = "sd15") -> Tensor:
    """The published sigmas for 10 steps; for other n between them in even steps, linear in log(sigma).

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
    table = look_up("family", family, _TABLES)
    check_count(process, 0, n)
    limit = process.log_snr_half(process.start).neg().exp().item()
    if table[1] >= limit:
        raise ValueError(f"family={family!r} goes on to sigma {table[1]:g}, but this process begins at {limit:g}")
    logs = torch.tensor(table, dtype=torch.float64).log()
    position = torch.arange(n, dtype=torch.float64) * ((len(table) - 1) / n)
    low = position.long()
    between = torch.lerp(logs[low], logs[low + 1], position - low)
    return close_sigmas(process, between.exp(), process.start)
