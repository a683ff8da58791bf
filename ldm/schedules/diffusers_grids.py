"""The grids of diffusers' scheduler classes: how each spaces its timesteps, and where it ends.

Keyed by our samplers, so that a sampler draws what diffusers draws after `Class.from_config(pipe.scheduler.config)`.
"""

import dataclasses

from ldm.naming import OptionValue
from ldm.process import DiscreteVP, Process

EVEN = ("ddim", "ddpm", "plms", "ddim_inversion")
"""Samplers whose classes walk whole timesteps: DDIM, DDPM, PNDM."""
SOLVERS = ("dpmpp_2m", "dpmpp_2s", "dpmpp_2m_sde", "dpmpp_3m_sde", "unipc", "deis")
"""Samplers whose classes lay one point more and leave out the last: DPM-Solver, UniPC, DEIS."""
DISTILLED = ("lcm", "tcd")
"""Samplers whose classes visit the timesteps of a distillation only: LCM, TCD."""
ORIGINAL_STEPS = 50
"""The steps of that distillation unless a file says otherwise (`original_inference_steps`)."""

# The field by which a class may leave noise at the end. DEIS and TCD always do, by no field.
_END_FIELDS = {
    **dict.fromkeys(("ddim", "plms", "ddim_inversion"), "set_alpha_to_one"),
    **dict.fromkeys(("euler", "dpmpp_2m", "dpmpp_2s", "dpmpp_2m_sde", "unipc"), "final_sigmas_type"),
    "deis": "deis",
    "tcd": "tcd",
}


def grid_options(sampler: str, schedule: str) -> dict[str, OptionValue]:
    """How the scheduler class that stands for `sampler` lays the grid `schedule`, as options of `make_grid`.

    Offset 1 is Stable Diffusion's, whose pipeline always sets it. `linspace` is rounded by all classes but those that
    walk x / alpha (Euler, Heun, DPM2, LMS, DPM++ SDE).
    """
    solver = sampler in SOLVERS
    if schedule == "leading":
        return {"offset": 1, "skip_last": solver}
    if schedule == "linspace":
        return {"rounded": solver or sampler in EVEN + DISTILLED, "skip_last": solver}
    if schedule == "trailing" and sampler in DISTILLED:
        return {"original_steps": ORIGINAL_STEPS}
    return {}


def process_for(sampler: str, process: Process, own_sampler: str) -> Process:
    """The process as `sampler` ends it.

    A file's terminal point with noise left (`final_alpha_one=False`) holds for the sampler that the file names, and
    for those whose classes read the same field; the others go on to the picture.

    Args:
        sampler: the one that will run.
        process: of the model.
        own_sampler: the model's default sampler, for which the process was read.
    """
    same = sampler == own_sampler or (sampler in _END_FIELDS and _END_FIELDS[sampler] == _END_FIELDS.get(own_sampler))
    if not same and isinstance(process, DiscreteVP) and not process.final_alpha_one:
        return dataclasses.replace(process, final_alpha_one=True)
    return process
