"""A call of the pipeline with everything filled in and checked."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from conditioning.prompt.syntax import check_mode
from ldm.generation.conditions import ExtraConditioning
from ldm.generation.sampling import Sampling
from ldm.guidance import GuidanceSettings
from ldm.naming import look_up
from ldm.samplers import SAMPLERS

Generators = torch.Generator | Sequence[torch.Generator]


@dataclass(frozen=True)
class ResolvedRequest:
    """What is drawn, and how.

    Attributes:
        prompts, negatives, seeds: one per picture.
        steps: number of steps.
        guidance, sampling: everything about them.
        clip_skip, prompt_syntax: how texts are read, see `conditioning.prompt.encoder.PromptEncoder`.
        width, height: of the finished picture, in pixels.
        enlarged: factor of the upscaler that runs, or 1.
        multiple: what width and height must be whole multiples of.
        conditions: what the network is told besides texts.

    Raises ValueError naming the argument of the call that cannot be followed.
    """

    prompts: list[str]
    negatives: list[str]
    seeds: list[int]
    steps: int
    guidance: GuidanceSettings
    sampling: Sampling
    clip_skip: int
    prompt_syntax: str
    width: int
    height: int
    enlarged: int
    multiple: int
    conditions: ExtraConditioning = field(default_factory=ExtraConditioning)

    def cells(self, factor: int) -> tuple[int, int]:
        """Height and width of the latents. factor: pixels per cell."""
        return self.height // (factor * self.enlarged), self.width // (factor * self.enlarged)

    def __post_init__(self) -> None:
        look_up("sampler", self.sampling.sampler, SAMPLERS)
        self.guidance.check_sampler(self.sampling.sampler)
        check_mode(self.prompt_syntax)
        if not self.prompts:
            raise ValueError("no picture was asked for; give a prompt and num_images_per_prompt of 1 or more")
        if len(self.negatives) != len(self.prompts):
            raise ValueError("there must be one negative_prompt, or as many as prompts")
        if self.steps < 1:
            raise ValueError(f"num_inference_steps={self.steps} is not possible; use 1 or more, e.g. 25")
        for name, value in (("width", self.width), ("height", self.height)):
            if value < self.multiple or value % self.multiple:
                lower = max(value // self.multiple, 0) * self.multiple
                near = f"{lower} or {lower + self.multiple}" if lower else f"{self.multiple}"
                raise ValueError(f"{name}={value} is not a multiple of {self.multiple}; use {near}")


def guidance_for(
    defaults: GuidanceSettings, scale: float | None, rescale: float | None, options: Mapping[str, Any] | None
) -> GuidanceSettings:
    """The model's guidance, changed by what the caller gave.

    Args:
        defaults: of the model.
        scale, rescale: `guidance_scale` and `guidance_rescale`, or None.
        options: any fields of `GuidanceSettings`; lists will do for tuples.

    Raises:
        ValueError: names the field that is unknown, of another type or out of range.
    """
    given = {"guidance_scale": scale, "guidance_rescale": rescale}
    given = {name: value for name, value in given.items() if value is not None} | dict(options or {})
    known = {field.name: field.default for field in fields(GuidanceSettings)}
    values = {name: _like(name, look_up("guidance option", name, known), value) for name, value in given.items()}
    return replace(defaults, **values)


def guidance_options(settings: GuidanceSettings) -> dict[str, Any]:
    """What of the settings is not off, without scale and rescale, in types that JSON has: for `guidance_for`."""
    values = {field.name: (getattr(settings, field.name), field.default) for field in fields(settings)}
    changed = {name: value for name, (value, default) in values.items() if value != default}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in changed.items()
        if name not in ("guidance_scale", "guidance_rescale")
    }


def _like(name: str, default: Any, value: Any) -> Any:
    """The value in the type of its field's default."""
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        first = type(default[0])
        return tuple(_like(name, first(), each) for each in value)
    wanted = float if default is None else type(default)
    if default is None and value is None:
        return None
    if wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted):
        kind = "a list" if wanted is tuple else {float: "a number", bool: "true or false", str: "a word"}[wanted]
        raise ValueError(f"guidance option {name}={value!r} must be {kind}")
    return value


def draw_seed() -> int:
    """A seed by lot, short enough to be typed."""
    return secrets.randbelow(2**32)


def repeat_each(texts: str | Sequence[str], times: int) -> list[str]:
    """Each text `times` times: [a, b] twice is [a, a, b, b]."""
    return [text for text in ([texts] if isinstance(texts, str) else texts) for _ in range(times)]


def seeds_for(seed: int | None, generator: Generators | None, count: int) -> list[int]:
    """seed, seed + 1, ... (drawn by lot if None), or the seeds that the generators began with."""
    if generator is not None:
        if seed is not None:
            raise ValueError(f"seed={seed} and a generator were given; use one of them")
        return [each.initial_seed() for each in one_each(generator, count)]
    first = draw_seed() if seed is None else seed
    return [first + i for i in range(count)]


def one_each(generator: Generators, count: int) -> list[torch.Generator]:
    """One generator per picture; a single one serves them all in turn."""
    each = [generator] * count if isinstance(generator, torch.Generator) else list(generator)
    if len(each) != count:
        raise ValueError(f"{len(each)} generators for {count} pictures; use one, or one each")
    return each


def alike(keys: Sequence[Any]) -> Iterator[list[int]]:
    """Indices of equal keys together, in the order in which keys first appear."""
    groups: dict[Any, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    yield from groups.values()
