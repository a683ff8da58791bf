"""Grids: the times that a sampler visits, from noise to the terminal point.

A grid is a float64 tensor `(n + 1,)`, strictly descending, that ends at `process.terminal`. A schedule is a pure
function `(process, n, *, own options) -> grid`. Those of `spacing` lie on the process's training indices, those of
`sigmas` on its noise, so that each serves VP (zero-terminal SNR included), EDM and flow. The shift of flow is the
process's: `Flow(shift)`.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from ldm.naming import check_options, look_up
from ldm.process import Process
from ldm.schedules.align_your_steps import align_your_steps
from ldm.schedules.beta_distribution import beta, beta_sigmas
from ldm.schedules.custom import custom_sigmas, custom_times
from ldm.schedules.sigmas import MOST_NOISE, exponential, karras, kl_optimal, polyexponential
from ldm.schedules.spacing import leading, linspace, normal, sgm_uniform, simple, trailing

OptionValue = int | float | bool | str

SCHEDULES: dict[str, Callable[..., Tensor]] = {
    "leading": leading,
    "trailing": trailing,
    "linspace": linspace,
    "normal": normal,
    "sgm_uniform": sgm_uniform,
    "simple": simple,
    "beta": beta,
    "beta_sigmas": beta_sigmas,
    "karras": karras,
    "exponential": exponential,
    "polyexponential": polyexponential,
    "kl_optimal": kl_optimal,
    "align_your_steps": align_your_steps,
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


__all__ = [
    "MOST_NOISE",
    "SCHEDULES",
    "OptionValue",
    "align_your_steps",
    "beta",
    "beta_sigmas",
    "custom_sigmas",
    "custom_times",
    "exponential",
    "karras",
    "kl_optimal",
    "leading",
    "linspace",
    "make_grid",
    "normal",
    "polyexponential",
    "sgm_uniform",
    "simple",
    "trailing",
]
