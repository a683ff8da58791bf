"""Settings -> `scheduler_config.json`, in words that diffusers understands; what it has no words for is refused."""

from collections.abc import Mapping
from dataclasses import fields as fields_of
from typing import Any

from ldm.families.parts import SchedulerSettings
from ldm.io.disk.files import ModelFileError
from ldm.io.folder.config_fields import DIFFUSERS_VERSION
from ldm.io.folder.scheduler.classes import CLASSES, PREDICTION_TYPES, SIGMA_FLAGS, SPACINGS, SchedulerClass
from ldm.io.folder.scheduler.read import scheduler_settings
from ldm.naming import OptionValue
from ldm.process import EDM, DiscreteVP, Flow, Process

_CLASS_OF = {
    **{entry.sampler: name for name, entry in CLASSES.items() if entry.process == "discrete"},
    "dpmpp_2m_sde": "DPMSolverMultistepScheduler",
}
_EDM_CLASS_OF = {
    "euler": "EDMEulerScheduler",
    "dpmpp_2m": "EDMDPMSolverMultistepScheduler",
    "dpmpp_2m_sde": "EDMDPMSolverMultistepScheduler",
}
_FLOW_CLASS_OF = {
    "unipc": "UniPCMultistepScheduler",
    "euler": "FlowMatchEulerDiscreteScheduler",
    "heun": "FlowMatchHeunDiscreteScheduler",
}


def scheduler_fields(
    process: Process,
    prediction_type: str,
    sampler: str,
    schedule: str,
    sampler_options: Mapping[str, OptionValue] | None = None,
    schedule_options: Mapping[str, OptionValue] | None = None,
) -> dict[str, Any]:
    """The inverse of `scheduler_settings`.

    A flow process is written for `unipc`, which Stable Diffusion pipelines can run, and for `euler` and `heun`, which
    only diffusers' flow pipelines can.

    Raises:
        ValueError: for what diffusers has no scheduler for, or would read in another way; names the argument.
    """
    wanted = SchedulerSettings(
        process, prediction_type, sampler, schedule, dict(sampler_options or {}), dict(schedule_options or {})
    )
    classes, kind = {EDM: (_EDM_CLASS_OF, "EDM"), Flow: (_FLOW_CLASS_OF, "Flow")}.get(
        type(process), (_CLASS_OF, "DiscreteVP")
    )
    if sampler not in classes:
        raise ValueError(
            f"sampler={sampler!r} has no scheduler in diffusers for process={kind}; use one of {', '.join(classes)} "
            "as the default"
        )
    name = classes[sampler]
    known = CLASSES[name]
    fields: dict[str, Any] = {"_class_name": name, "_diffusers_version": DIFFUSERS_VERSION}
    if isinstance(process, EDM):
        fields |= _edm_fields(process, schedule)
    elif isinstance(process, Flow):
        fields |= _flow_fields(process, name)
    elif isinstance(process, DiscreteVP):
        fields |= _table_fields(process, prediction_type, name)
        fields |= _grid_fields(known, name, schedule, wanted.schedule_options)
        fields |= _end_fields(known, process)
    fields |= {field: values[0] for field, values in known.fixed.items() if field not in fields}
    fields |= _sampler_fields(sampler, wanted.sampler_options)
    fields.pop("lambda_min_clipped", None)  # minus infinity, which JSON has no number for
    _check_words(fields, name, wanted)
    return fields


def _check_words(fields: Mapping[str, Any], name: str, wanted: SchedulerSettings) -> None:
    """Refuse to write what would be read as something else."""
    try:
        read = scheduler_settings(fields, name)
    except ModelFileError as error:
        raise ValueError(f"these settings have no words in diffusers' {error}") from None
    for field in fields_of(SchedulerSettings):
        expected, found = getattr(wanted, field.name), getattr(read, field.name)
        if expected != found:
            raise ValueError(f"{field.name}={expected!r} has no words in diffusers' {name}, which would have {found!r}")


def _table_fields(process: DiscreteVP, prediction_type: str, name: str) -> dict[str, Any]:
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(
            f"prediction_type={prediction_type!r} is unknown to Stable Diffusion pipelines; use v_prediction"
        )
    if process.zero_terminal_snr and not CLASSES[name].zero_snr:
        able = ", ".join(sampler for sampler, known in _CLASS_OF.items() if CLASSES[known].zero_snr)
        raise ValueError(f"zero_terminal_snr=True would be ignored by diffusers' {name}; use one of {able}")
    return {
        "num_train_timesteps": process.num_train_timesteps,
        "beta_schedule": process.beta_schedule,
        "beta_start": process.beta_start,
        "beta_end": process.beta_end,
        "trained_betas": None if process.betas is None else list(process.betas),
        **({"rescale_betas_zero_snr": process.zero_terminal_snr} if CLASSES[name].zero_snr else {}),
        "prediction_type": prediction_type,
        **({"clip_sample": False} if name in ("DDIMScheduler", "DDPMScheduler") else {}),
    }


def _grid_fields(known: SchedulerClass, name: str, schedule: str, options: Mapping[str, OptionValue]) -> dict[str, Any]:
    flags = {schedule_of: flag for flag, schedule_of in SIGMA_FLAGS.items()} if known.sigmas else {}
    spacings = (known.spacing or "trailing",) if known.spacing is None or not known.any_spacing else SPACINGS
    if schedule not in spacings and schedule not in flags:
        names = ", ".join((*spacings, *flags))
        raise ValueError(f"schedule={schedule!r} has no words in diffusers' {name}; use one of {names}")
    if known.spacing is None:
        return {"original_inference_steps": options.get("original_steps", 50)}
    # Where a class takes the range of sigma from the spacing, `linspace` has all of it, as ours do.
    spacing = options.get("spacing", "linspace") if schedule in flags else schedule
    return {
        **({"timestep_spacing": spacing, "steps_offset": 1} if known.any_spacing else {}),
        **{flag: schedule == schedule_of for schedule_of, flag in flags.items()},
        **{field: options[field] for field in ("sigma_min", "sigma_max") if field in options},
    }


def _end_fields(known: SchedulerClass, process: DiscreteVP) -> dict[str, Any]:
    if known.end == "set_alpha_to_one":
        return {"set_alpha_to_one": process.final_alpha_one}
    if known.end == "final_sigmas_type":
        own = {"lower_order_final": process.final_alpha_one} if known.sampler == "dpmpp_2s" else {}
        return {"final_sigmas_type": "zero" if process.final_alpha_one else "sigma_min", **own}
    return {}


def _edm_fields(process: EDM, schedule: str) -> dict[str, Any]:
    return {
        "sigma_min": process.sigma_min,
        "sigma_max": process.sigma_max,
        "sigma_data": 1.0,
        "sigma_schedule": schedule,
        "rho": process.rho,
        "num_train_timesteps": process.num_train_timesteps,
    }


def _flow_fields(process: Flow, name: str) -> dict[str, Any]:
    if name == "UniPCMultistepScheduler":
        own = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": process.shift}
        return {"num_train_timesteps": process.num_train_timesteps, **own}
    return {"num_train_timesteps": process.num_train_timesteps, "shift": process.shift}


def _sampler_fields(sampler: str, options: Mapping[str, OptionValue]) -> dict[str, Any]:
    """Options in diffusers' words; `_check_words` finds those that have none."""
    fields: dict[str, Any] = {}
    if sampler in ("dpmpp_2m", "dpmpp_2m_sde"):
        noisy = sampler == "dpmpp_2m_sde" and options.get("eta") != 0.0
        fields = {"algorithm_type": "sde-dpmsolver++" if noisy else "dpmsolver++"}
        fields["solver_type"] = options.get("solver_type", "midpoint")
    elif sampler == "dpmpp_2s":
        fields = {"algorithm_type": "dpmsolver++", "solver_type": options.get("solver_type", "midpoint")}
    elif sampler == "unipc":
        fields["solver_type"] = options.get("solver_type", "bh2")
    elif sampler == "deis":
        fields["solver_type"] = "logrho"
    if sampler in ("unipc", "deis", "dpmpp_2s"):
        fields["solver_order"] = options.get("order", 2)
    if "lower_order_final" in options:
        fields["lower_order_final"] = options["lower_order_final"]
    return fields
