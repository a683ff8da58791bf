"""Samplers that a caller brings: a function of `ldm.samplers`' protocol, or a diffusers scheduler."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ldm.families.parts import ModelParts
from ldm.io.disk.files import ModelFileError
from ldm.io.folder.scheduler import process_for, scheduler_settings
from ldm.io.folder.scheduler.classes import CLASSES
from ldm.naming import OptionValue, nearest
from ldm.samplers import SAMPLERS, Sampler
from ldm.schedules import SCHEDULES


def is_function(sampler: object) -> bool:
    """Whether it is a sampler itself: (denoise, x, grid, noise, *, options) -> steps, as those of `ldm.samplers`."""
    return callable(sampler) and not hasattr(sampler, "config")


def function_name(sampler: Sampler) -> str:
    """What results call a sampler that is a function."""
    return getattr(sampler, "__name__", type(sampler).__name__)


def sampling_fields(
    sampler: Any,
    schedule: str | None,
    sampler_options: Mapping[str, OptionValue] | None,
    schedule_options: Mapping[str, OptionValue] | None,
    parts: ModelParts,
) -> dict[str, Any]:
    """The fields of `Request` about sampling.

    Args:
        sampler: a name; a function, which no request can name; a scheduler, whose settings the other arguments change.
        schedule: a name.
        sampler_options: of the sampler.
        schedule_options: of the schedule.
        parts: of the model.

    Raises:
        ValueError: as `fields_of_scheduler`.
    """
    given = {"sampler": sampler, "schedule": schedule}
    given |= {"sampler_options": sampler_options or {}, "schedule_options": schedule_options or {}}
    if sampler is None or isinstance(sampler, str):
        return given
    if is_function(sampler):
        return {**given, "sampler": None}
    own = fields_of_scheduler(sampler, parts)
    if schedule is None:
        given |= {
            "schedule": own["schedule"],
            "schedule_options": {**own["schedule_options"], **given["schedule_options"]},
        }
    return {
        **given,
        "sampler": own["sampler"],
        "sampler_options": {**own["sampler_options"], **given["sampler_options"]},
    }


def fields_of_scheduler(scheduler: Any, parts: ModelParts) -> dict[str, Any]:
    """The fields of `Request` that draw as diffusers does with a scheduler.

    Args:
        scheduler: one of diffusers', made by `from_config(model.scheduler.config)`.
        parts: of the model.

    Raises:
        ValueError: a class that has no counterpart here, or one whose noise is not the model's.
    """
    name = type(scheduler).__name__
    if not hasattr(scheduler, "config"):
        raise ValueError(f"sampler={scheduler!r} is no name, no function and no scheduler of diffusers")
    if name not in CLASSES:
        raise ValueError(f"sampler={name} has no counterpart here; {nearest(name, CLASSES)}")
    try:
        settings = scheduler_settings({**scheduler.config, "_class_name": name}, f"sampler={name}")
    except ModelFileError as error:
        raise ValueError(str(error)) from None
    own = parts.defaults
    if settings.prediction_type != parts.prediction_type or settings.process != process_for(
        settings.sampler, parts.process, own.sampler
    ):
        raise ValueError(
            f"sampler={name} has another noise or prediction_type than the model was trained with; "
            f"make it by {name}.from_config(model.scheduler.config)"
        )
    same = settings.sampler == own.sampler
    usual_sampler = _defaults(SAMPLERS[settings.sampler], own.sampler_options if same else {})
    same = same and settings.schedule == own.schedule
    usual_schedule = _defaults(SCHEDULES[settings.schedule], own.schedule_options if same else {})
    return {
        "sampler": settings.sampler,
        "schedule": settings.schedule,
        "sampler_options": {**usual_sampler, **settings.sampler_options},
        "schedule_options": {**usual_schedule, **settings.schedule_options},
    }


def _defaults(function: Callable[..., object], names: Mapping[str, OptionValue]) -> dict[str, Any]:
    """What a function takes for options that the model's own scheduler sets otherwise."""
    parameters = inspect.signature(function).parameters
    return {name: parameters[name].default for name in names}
