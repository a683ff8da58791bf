"""diffusers' `scheduler_config.json` <-> our process, prediction type, sampler and schedule.

Read as `StableDiffusionPipeline` reads it, quirks included: it always uses `steps_offset=1` and `clip_sample=False`,
whatever the file says, and each scheduler class ignores the fields that only other classes have.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ldm.io.files import ModelFileError
from ldm.io.translate import DIFFUSERS_VERSION
from ldm.process import DiscreteVP, Process

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SchedulerSettings:
    """What a scheduler file says: the noise a model was trained with, and how it is sampled by default."""

    process: DiscreteVP
    prediction_type: str
    sampler: str
    schedule: str


@dataclass(frozen=True)
class _SchedulerClass:
    """One of diffusers' classes: our sampler, its default spacing, the fields that may have one meaning only."""

    sampler: str
    spacing: str
    fixed: Mapping[str, tuple[Any, ...]]
    karras: bool = False


_DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
}
_READ_BY_SOME = ("timestep_spacing", "set_alpha_to_one", "use_karras_sigmas")
_QUIRKS = ("steps_offset", "clip_sample")
_NO_THRESHOLDING = {"thresholding": (False,)}
_PLAIN_SIGMAS = {
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "final_sigmas_type": ("zero",),
}
_CLASSES = {
    "DDIMScheduler": _SchedulerClass("ddim", "leading", _NO_THRESHOLDING),
    "DDPMScheduler": _SchedulerClass("ddpm", "leading", {**_NO_THRESHOLDING, "variance_type": ("fixed_small",)}),
    "EulerDiscreteScheduler": _SchedulerClass(
        "euler",
        "linspace",
        {
            **_PLAIN_SIGMAS,
            "interpolation_type": ("linear",),
            "timestep_type": ("discrete",),
            "sigma_min": (None,),
            "sigma_max": (None,),
        },
        karras=True,
    ),
    "HeunDiscreteScheduler": _SchedulerClass("heun", "linspace", _PLAIN_SIGMAS, karras=True),
    "DPMSolverMultistepScheduler": _SchedulerClass(
        "dpmpp_2m",
        "linspace",
        {
            **_NO_THRESHOLDING,
            **_PLAIN_SIGMAS,
            "algorithm_type": ("dpmsolver++",),
            "solver_order": (2,),
            "solver_type": ("midpoint",),
            "euler_at_final": (False,),
            "use_lu_lambdas": (False, None),
            "use_flow_sigmas": (False, None),
            "variance_type": (None,),
            "lambda_min_clipped": (float("-inf"), "-inf", "-Infinity"),
            "use_dynamic_shifting": (False,),
        },
        karras=True,
    ),
    # The linear multistep sampler of SD 1's own folders has no counterpart here.
    "PNDMScheduler": _SchedulerClass("dpmpp_2m", "leading", {}),
}
# Read by diffusers only together with a field that we refuse, or only by classes that we do not open.
_WITHOUT_EFFECT = (
    "clip_sample_range",
    "dynamic_thresholding_ratio",
    "flow_shift",
    "lower_order_final",  # the last step is always of first order where it ends at sigma = 0
    "sample_max_value",
    "skip_prk_steps",
    "time_shift_type",
)
_CLASS_OF = {entry.sampler: name for name, entry in _CLASSES.items() if name != "PNDMScheduler"}
_SPACINGS = ("leading", "trailing", "linspace")
_PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


def scheduler_settings(fields: Mapping[str, Any], where: str) -> SchedulerSettings:
    """Scheduler fields -> settings. Raises ModelFileError naming the field, its value and `where` (a file)."""
    name = fields.get("_class_name")
    if name not in _CLASSES:
        raise ModelFileError(f"{where}: _class_name={name!r} is not supported; only {', '.join(_CLASSES)} are")
    known = _CLASSES[name]
    _check(fields, known, where)
    f = {**_DEFAULTS, **{key: fields[key] for key in _DEFAULTS if key in fields}}
    karras = known.karras and bool(fields.get("use_karras_sigmas"))
    spacing = "karras" if karras else fields.get("timestep_spacing", known.spacing)
    for field, value, allowed in (
        ("timestep_spacing", spacing, (*_SPACINGS, "karras")),
        ("prediction_type", f["prediction_type"], _PREDICTION_TYPES),
    ):
        if value not in allowed:
            raise ModelFileError(f"{where}: {field}={value!r} is not supported; only {', '.join(allowed)} are")
    if name == "PNDMScheduler":
        logger.warning("%s: sampler %s in place of PNDMScheduler, which is not here", where, known.sampler)
    try:
        process = DiscreteVP(
            beta_schedule=f["beta_schedule"],
            beta_start=f["beta_start"],
            beta_end=f["beta_end"],
            num_train_timesteps=f["num_train_timesteps"],
            betas=None if f["trained_betas"] is None else tuple(f["trained_betas"]),
            zero_terminal_snr=f["rescale_betas_zero_snr"],
            final_alpha_one=bool(fields.get("set_alpha_to_one", True)) if known.sampler == "ddim" else True,
        )
    except ValueError as error:
        raise ModelFileError(f"{where}: {error}") from None
    return SchedulerSettings(process, f["prediction_type"], known.sampler, spacing)


def scheduler_fields(process: Process, prediction_type: str, sampler: str, schedule: str) -> dict[str, Any]:
    """The inverse of `scheduler_settings`.

    Raises ValueError for what Stable Diffusion pipelines have no scheduler for.
    """
    if not isinstance(process, DiscreteVP):
        raise ValueError(
            f"process={type(process).__name__} has no scheduler in Stable Diffusion pipelines; use DiscreteVP"
        )
    if prediction_type not in _PREDICTION_TYPES:
        raise ValueError(
            f"prediction_type={prediction_type!r} is unknown to Stable Diffusion pipelines; use v_prediction"
        )
    if sampler not in _CLASS_OF:
        raise ValueError(
            f"sampler={sampler!r} has no scheduler in diffusers; use one of {', '.join(_CLASS_OF)} as the default"
        )
    name = _CLASS_OF[sampler]
    known = _CLASSES[name]
    if schedule not in _SPACINGS and not (schedule == "karras" and known.karras):
        raise ValueError(f"schedule={schedule!r} has no words in diffusers' {name}; use one of {', '.join(_SPACINGS)}")
    fields: dict[str, Any] = {
        "_class_name": name,
        "_diffusers_version": DIFFUSERS_VERSION,
        "num_train_timesteps": process.num_train_timesteps,
        "beta_schedule": process.beta_schedule,
        "beta_start": process.beta_start,
        "beta_end": process.beta_end,
        "trained_betas": None if process.betas is None else list(process.betas),
        "rescale_betas_zero_snr": process.zero_terminal_snr,
        "prediction_type": prediction_type,
        # The Karras levels span those of the spacing; `linspace` has the whole range, as ours do.
        "timestep_spacing": "linspace" if schedule == "karras" else schedule,
        "steps_offset": 1,
        **{field: values[0] for field, values in known.fixed.items() if field != "lambda_min_clipped"},
    }
    if known.karras:
        fields["use_karras_sigmas"] = schedule == "karras"
    if sampler in ("ddim", "ddpm"):
        fields["clip_sample"] = False
    if sampler == "ddim":
        fields["set_alpha_to_one"] = process.final_alpha_one
    return fields


def _check(fields: Mapping[str, Any], known: _SchedulerClass, where: str) -> None:
    elsewhere = {field for entry in _CLASSES.values() for field in entry.fixed}
    understood = {*_DEFAULTS, *_READ_BY_SOME, *_QUIRKS, *_WITHOUT_EFFECT, *elsewhere}
    for field, value in fields.items():
        if field.startswith("_"):
            continue
        if field not in understood:
            raise ModelFileError(
                f"{where}: {field}={value!r} is unknown to this version, which cannot tell what it means"
            )
        if field in known.fixed and value not in known.fixed[field]:
            allowed = " or ".join(repr(entry) for entry in known.fixed[field])
            raise ModelFileError(f"{where}: {field}={value!r} is not supported; only {allowed} is")


def grid_options(sampler: str, schedule: str) -> dict[str, bool | int]:
    """How the scheduler class that stands for `sampler` lays the grid `schedule`, as options of `make_grid`.

    Offset 1 is Stable Diffusion's; the DPM-Solver class lays one point more and leaves out the last; the Euler
    family does not round `linspace`.
    """
    solver = sampler == "dpmpp_2m"
    if schedule == "leading":
        return {"offset": 1, "skip_last": solver}
    if schedule == "linspace":
        return {"rounded": sampler not in ("euler", "heun"), "skip_last": solver}
    return {}
