"""The options of guidance and of feature caching: from what a request gives, and back for recipes."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from ldm.guidance import GuidanceSettings
from ldm.naming import look_up, shown
from ldm.networks.feature_cache import CacheSettings

_MOST_GUIDANCE = 1_000_000


def guidance_for(
    defaults: GuidanceSettings, scale: float | None, rescale: float | None, options: Mapping[str, Any] | None
) -> GuidanceSettings:
    """The model's guidance, changed by what the caller gave.

    Args:
        defaults: of the model.
        scale: `guidance_scale`; None is the model's.
        rescale: `guidance_rescale`; None is the model's.
        options: any fields of `GuidanceSettings`; lists will do for tuples.

    Raises:
        ValueError: names the field that is unknown, of another type or out of range.
    """
    given = {"guidance_scale": scale, "guidance_rescale": rescale}
    given = {name: value for name, value in given.items() if value is not None} | dict(options or {})
    known = {field.name: field.default for field in fields(GuidanceSettings)}
    values = {
        name: value  # the name of one, which is checked with the others
        if name == "guidance_interval" and isinstance(value, str)
        else _like(name, look_up("guidance option", name, known), value)
        for name, value in given.items()
    }
    return replace(defaults, **values)


def caching_for(options: Mapping[str, Any]) -> CacheSettings:
    """The feature caching of a request.

    Args:
        options: any fields of `CacheSettings`.

    Raises:
        ValueError: names the field that is unknown, of another type or out of range.
    """
    known = {field.name: field.default for field in fields(CacheSettings)}
    return CacheSettings(
        **{name: _like(name, look_up("cache option", name, known), value, "cache") for name, value in options.items()}
    )


def guidance_options(settings: GuidanceSettings) -> dict[str, Any]:
    """The guidance settings that are on, without scale and rescale, in JSON's types: for `guidance_for`."""
    scales = ("guidance_scale", "guidance_rescale")
    return {name: value for name, value in changed_options(settings).items() if name not in scales}


def changed_options(settings: GuidanceSettings | CacheSettings) -> dict[str, Any]:
    """The settings that are not their defaults, in JSON's types."""
    values = {field.name: (getattr(settings, field.name), field.default) for field in fields(settings)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, (value, default) in values.items()
        if value != default
    }


def _like(name: str, default: Any, value: Any, of: str = "guidance") -> Any:
    """The value in the type of its field's default."""
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        first = type(default[0])
        return tuple(_like(name, first(), each, of) for each in value)
    wanted = float if default is None else type(default)
    if default is None and value is None:
        return None
    if wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        if abs(value) != math.inf and not -_MOST_GUIDANCE <= value <= _MOST_GUIDANCE:
            raise ValueError(
                f"{of} option {name}={shown(value)} is beyond sense; use {-_MOST_GUIDANCE:,} to {_MOST_GUIDANCE:,}"
            )
        return float(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        kinds = {tuple: "a list", int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
        kind = kinds[wanted]
        raise ValueError(f"{of} option {name}={shown(value)} must be {kind}")
    return value
