"""Grids: the times that a sampler visits, from noise to the terminal point.

A grid is a float64 tensor `(n + 1,)`, strictly descending, that ends at `process.terminal`. A schedule is a pure
function `(process, n, *, own options) -> grid`. Those of `spacing` lie on the process's training indices, those of
`sigmas` on its noise, so that each serves VP (zero-terminal SNR included), EDM and flow. The shift of flow is the
process's: `Flow(shift)`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ldm.naming import OptionValue, check_options, look_up
from ldm.process import Process
from ldm.schedules.align_your_steps import align_your_steps, gits
from ldm.schedules.beta_distribution import beta, beta_sigmas
from ldm.schedules.custom import custom_sigmas, custom_times
from ldm.schedules.linear_quadratic import linear_quadratic
from ldm.schedules.sigmas import MOST_NOISE, exponential, karras, kl_optimal, polyexponential
from ldm.schedules.spacing import leading, linspace, normal, sgm_uniform, simple, trailing

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
    "gits": gits,
    "linear_quadratic": linear_quadratic,
}

WRITTEN: dict[str, Callable[[Process, Sequence[float]], Tensor]] = {"sigmas": custom_sigmas, "timesteps": custom_times}
"""Lists of noise levels or times that someone wrote down, as the option `values`; the steps are as many."""


def make_grid(name: str, process: Process, n: int, options: Mapping[str, OptionValue] | None = None) -> Tensor:
    """The grid of a schedule by name.

    Args:
        name: a key of `SCHEDULES` or `WRITTEN`.
        process: whose times the grid holds.
        n: number of steps (`num_inference_steps`).
        options: the schedule's own, e.g. `{"offset": 1}` for `leading`, `{"values": [14.6, 3.2, 0.9]}` for `sigmas`.

    Raises:
        ValueError: an unknown name or option (offers the nearest), or a value that the schedule refuses.
    """
    if name in WRITTEN:
        return _written(name, process, n, options or {})
    schedule = look_up("schedule", name, SCHEDULES)
    check_options(f"schedule {name!r}", schedule, options or {})
    return schedule(process, n, **(options or {}))


def _written(name: str, process: Process, n: int, options: Mapping[str, Any]) -> Tensor:
    values = options.get("values")
    if set(options) - {"values"} or not isinstance(values, list | tuple):
        raise ValueError(f"schedule {name!r} takes one option, values, a list of numbers, e.g. values=[14.6, 3.2, 0.9]")
    grid = WRITTEN[name](process, values)
    if len(grid) != n + 1:
        raise ValueError(f"num_inference_steps={n} does not go with {len(grid) - 1} {name}; use {len(grid) - 1}")
    return grid


__all__ = [
    "MOST_NOISE",
    "SCHEDULES",
    "WRITTEN",
    "OptionValue",
    "align_your_steps",
    "beta",
    "beta_sigmas",
    "custom_sigmas",
    "custom_times",
    "exponential",
    "gits",
    "karras",
    "kl_optimal",
    "leading",
    "linear_quadratic",
    "linspace",
    "make_grid",
    "normal",
    "polyexponential",
    "sgm_uniform",
    "simple",
    "trailing",
]
