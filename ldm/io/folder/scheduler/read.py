"""`scheduler_config.json` -> settings.

Read as `StableDiffusionPipeline` reads it, quirks included: it always uses `steps_offset=1` and `clip_sample=False`,
whatever the file says, and each scheduler class ignores the fields that only other classes have. What a class does
read is honoured or refused by name.
"""

from collections.abc import Mapping
from typing import Any

from ldm.families.parts import SchedulerSettings
from ldm.io.disk.files import ModelFileError
from ldm.io.folder.config_fields import require_one_of
from ldm.io.folder.field_types import SCHEDULER_TYPES, check_types
from ldm.io.folder.scheduler.classes import (
    CLASSES,
    KNOWN_FIELDS,
    PREDICTION_TYPES,
    SIGMA_FLAGS,
    SPACINGS,
    TABLE_DEFAULTS,
    SchedulerClass,
)
from ldm.naming import OptionValue, shown
from ldm.process import EDM, DiscreteVP, Flow
from ldm.schedules.diffusers_grids import ORIGINAL_STEPS, SOLVERS


def scheduler_settings(fields: Mapping[str, Any], where: str) -> SchedulerSettings:
    """Scheduler fields -> settings. Raises ModelFileError naming the field, its value and `where` (a file)."""
    name = fields.get("_class_name")
    if not isinstance(name, str) or name not in CLASSES:
        raise ModelFileError(f"{where}: _class_name={shown(name)} is not supported; only {', '.join(CLASSES)} are")
    known = CLASSES[name]
    _check(fields, known, where)
    try:
        if known.process == "edm":
            return _edm(fields, known)
        if known.process == "flow":
            return _flow_matching(fields, known)
        if name == "EulerDiscreteScheduler" and fields.get("timestep_type") == "continuous":
            return _continuous_euler(fields)
        if name == "UniPCMultistepScheduler" and fields.get("use_flow_sigmas"):
            return _flow_unipc(fields, known)
        return _discrete(fields, known)
    except ValueError as error:
        raise ModelFileError(f"{where}: {error}") from None


def _check(fields: Mapping[str, Any], known: SchedulerClass, where: str) -> None:
    for name, value in fields.items():
        if not name.startswith("_") and name not in KNOWN_FIELDS:
            raise ModelFileError(
                f"{where}: {name}={shown(value)} is unknown to this version, which cannot tell what it means"
            )
    for name, values in known.fixed.items():
        require_one_of(name, fields.get(name, known.defaults.get(name, values[0])), values, where)
    check_types(fields, SCHEDULER_TYPES, where)


def _or(values: tuple[Any, ...]) -> str:
    return " or ".join(repr(value) for value in values)


def _one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> Any:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not supported; only {', '.join(map(str, allowed))} are")
    return value


def _discrete(fields: Mapping[str, Any], known: SchedulerClass) -> SchedulerSettings:
    f = {**TABLE_DEFAULTS, **known.defaults, **{key: fields[key] for key in TABLE_DEFAULTS if key in fields}}
    end = fields.get(known.end, known.end_default) if known.end else None
    process = DiscreteVP(
        beta_schedule=f["beta_schedule"],
        beta_start=f["beta_start"],
        beta_end=f["beta_end"],
        num_train_timesteps=f["num_train_timesteps"],
        betas=None if f["trained_betas"] is None else tuple(f["trained_betas"]),
        zero_terminal_snr=f["rescale_betas_zero_snr"],
        final_alpha_one=known.end != "always" and end not in (False, "sigma_min"),
    )
    sampler, sampler_options = _sampler(fields, known)
    schedule, schedule_options = _schedule(fields, known)
    prediction_type = _one_of("prediction_type", f["prediction_type"], PREDICTION_TYPES)
    return SchedulerSettings(process, prediction_type, sampler, schedule, sampler_options, schedule_options)


def _sampler(fields: Mapping[str, Any], known: SchedulerClass) -> tuple[str, dict[str, OptionValue]]:
    """Our sampler and its options, as far as they are not its defaults."""
    if known.sampler not in SOLVERS:
        return known.sampler, {}
    options: dict[str, OptionValue] = {}
    sampler, order, kind = known.sampler, fields.get("solver_order", 2), fields.get("solver_type")
    if sampler == "dpmpp_2m":
        noisy = fields.get("algorithm_type") == "sde-dpmsolver++"
        if noisy or kind == "heun":
            sampler = "dpmpp_2m_sde"
        if kind == "heun":
            options["solver_type"] = "heun"
        if kind == "heun" and not noisy:
            options["eta"] = 0.0
    else:
        if order != 2:
            options["order"] = order
        if kind == {"unipc": "bh1", "dpmpp_2s": "heun"}.get(sampler, ""):
            options["solver_type"] = kind
    if sampler == "dpmpp_2s":  # which ends at sigma = 0 with order 1 in any case, in diffusers too
        if fields.get("lower_order_final") and fields.get("final_sigmas_type", "zero") != "zero":
            raise ValueError("lower_order_final=True is not supported together with final_sigmas_type='sigma_min'")
    elif not fields.get("lower_order_final", True):
        options["lower_order_final"] = False
    if fields.get("euler_at_final") and fields.get("final_sigmas_type", "zero") != "zero":
        raise ValueError("euler_at_final=True is not supported together with final_sigmas_type='sigma_min'")
    return sampler, options


def _schedule(fields: Mapping[str, Any], known: SchedulerClass) -> tuple[str, dict[str, OptionValue]]:
    """Our schedule and its options beyond `grid_options`."""
    if known.spacing is None:
        steps = fields.get("original_inference_steps", ORIGINAL_STEPS)
        return "trailing", {} if steps == ORIGINAL_STEPS else {"original_steps": steps}
    spacing = fields.get("timestep_spacing", known.spacing) if known.any_spacing else known.spacing
    spacing = _one_of("timestep_spacing", spacing, SPACINGS)
    flags = [name for name in SIGMA_FLAGS if fields.get(name)] if known.sigmas else []
    if len(flags) > 1:
        raise ValueError(f"{' and '.join(flags)} are both true; only one may be")
    if known.sampler == "dpmpp_2m" and fields.get("use_lu_lambdas") and flags != ["use_karras_sigmas"]:
        flags = ["use_exponential_sigmas"]  # even steps in lambda: another name for it
    if not flags:
        return spacing, {}
    options = {name: fields[name] for name in ("sigma_min", "sigma_max") if fields.get(name) is not None}
    if known.sampler not in SOLVERS and spacing != "linspace":
        options["spacing"] = spacing
    return SIGMA_FLAGS[flags[0]], options


def _edm(fields: Mapping[str, Any], known: SchedulerClass) -> SchedulerSettings:
    f = {**known.defaults, **fields}
    _require_numbers(f, "EDM's classes")
    process = EDM(f["sigma_min"], f["sigma_max"], f["rho"], f.get("num_train_timesteps", 1000))
    sampler, sampler_options = _sampler(fields, known)
    schedule = f["sigma_schedule"]
    options: dict[str, OptionValue] = {"rho": f["rho"]} if schedule == "karras" and f["rho"] != 7 else {}
    return SchedulerSettings(process, "v_prediction", sampler, schedule, sampler_options, options)


def _continuous_euler(fields: Mapping[str, Any]) -> SchedulerSettings:
    """Euler with log(sigma) / 4 as the time, as in Stable Video Diffusion: the process of EDM in a discrete class."""
    for name, allowed in (
        ("prediction_type", ("v_prediction",)),
        ("use_karras_sigmas", (True,)),
        ("final_sigmas_type", ("zero",)),
    ):
        value = fields.get(name, "zero" if name == "final_sigmas_type" else None)
        if value not in allowed:
            raise ValueError(
                f"{name}={value!r} is not supported with timestep_type='continuous'; only {_or(allowed)} is"
            )
    _require_numbers(fields, "timestep_type='continuous'")
    process = EDM(fields["sigma_min"], fields["sigma_max"], num_train_timesteps=fields.get("num_train_timesteps", 1000))
    return SchedulerSettings(process, "v_prediction", "euler", "karras")


def _require_numbers(fields: Mapping[str, Any], of: str) -> None:
    for name in ("sigma_min", "sigma_max"):
        if fields.get(name) is None:
            raise ValueError(f"{name}=None is not supported with {of}; it must be a number")


def _flow_matching(fields: Mapping[str, Any], known: SchedulerClass) -> SchedulerSettings:
    process = Flow(fields.get("shift", 1.0), fields.get("num_train_timesteps", 1000))
    return SchedulerSettings(process, "flow", known.sampler, "linspace", {}, flow_matching_options(process))


def flow_matching_options(process: Flow) -> dict[str, OptionValue]:
    """Where diffusers' flow-matching classes end `linspace`: at the least level shifted twice."""
    if process.shift == 1:
        return {}
    least = process.sigma(process.time_of_index(0)).item()
    return {"last": process.num_train_timesteps * least - 1}


def _flow_unipc(fields: Mapping[str, Any], known: SchedulerClass) -> SchedulerSettings:
    _one_of("prediction_type", fields.get("prediction_type", "epsilon"), ("flow_prediction",))
    _one_of("final_sigmas_type", fields.get("final_sigmas_type", "zero"), ("zero",))
    for name in SIGMA_FLAGS:
        if fields.get(name):
            raise ValueError(f"{name}=True is not supported together with use_flow_sigmas")
    process = Flow(fields.get("flow_shift", 1.0), fields.get("num_train_timesteps", 1000))
    sampler, options = _sampler(fields, known)
    return SchedulerSettings(process, "flow", sampler, "linspace", options)
