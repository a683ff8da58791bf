"""A call of the pipeline with everything filled in and checked."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ldm.naming import look_up
from ldm.samplers import SAMPLERS
from ldm.schedules import SCHEDULES

Generators = torch.Generator | Sequence[torch.Generator]


@dataclass(frozen=True)
class Plan:
    """What is drawn, and how.

    Attributes:
        prompts, negatives, seeds: one per picture.
        steps, scale, rescale: number of steps, guidance scale, guidance rescale.
        sampler, schedule: known names.
        width, height: of the finished picture, in pixels.
        enlarged: factor of the upscaler that runs, or 1.
        multiple: what width and height must be whole multiples of.

    Raises ValueError naming the argument of the call that cannot be followed.
    """

    prompts: list[str]
    negatives: list[str]
    seeds: list[int]
    steps: int
    scale: float
    rescale: float
    sampler: str
    schedule: str
    width: int
    height: int
    enlarged: int
    multiple: int

    def __post_init__(self) -> None:
        look_up("sampler", self.sampler, SAMPLERS)
        look_up("schedule", self.schedule, SCHEDULES)
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
