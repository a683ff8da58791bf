"""The texts and the seed of each picture of a request."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch

from conditioning.prompt.wildcards import draw
from ldm.generation.first_noise import draw_seed
from ldm.generation.request import Request
from ldm.io import library

Generators = torch.Generator | Sequence[torch.Generator]


@dataclass(frozen=True)
class Texts:
    """The texts of one picture, by the fields of a recipe; the second ones are for SDXL's second text encoder."""

    prompt: str
    negative_prompt: str
    prompt_2: str | None = None
    negative_prompt_2: str | None = None

    def spelled(self, spell: Callable[[str], str]) -> "Texts":
        """The same with each text changed."""
        second = [None if text is None else spell(text) for text in (self.prompt_2, self.negative_prompt_2)]
        return Texts(spell(self.prompt), spell(self.negative_prompt), *second)


def texts_and_seeds(request: Request, generator: Generators | None) -> tuple[list[Texts], list[int]]:
    """The texts, with their wildcards replaced, and the seed of each picture."""
    count = len(request.prompts) * request.num_images_per_prompt
    if not count:
        raise ValueError("no picture was requested; give at least one prompt")
    seeds = seeds_for(request.seed, generator, count, counting=not request.variation_strength)
    columns = [_one_each(request, each.name, count) for each in fields(Texts)]
    texts = [Texts(*column) for column in zip(*columns, strict=True)]
    if request.prompt_syntax != "plain":
        folder = library.wildcards() if request.wildcards is None else Path(request.wildcards)
        pairs = zip(texts, seeds, strict=True)
        texts = [each.spelled(partial(draw, seed=seed, folder=folder)) for each, seed in pairs]
    return texts, seeds


def _one_each(request: Request, name: str, count: int) -> list[Any]:
    """A field of texts, which has one for each prompt or one for all, as one per picture."""
    value = getattr(request, name)
    if value is None:
        return [None] * count
    for_all = isinstance(value, str) and name != "prompt"
    texts = repeat_each(value, count if for_all else request.num_images_per_prompt)
    if len(texts) != count:
        raise ValueError(f"there must be one {name}, or as many as prompts")
    return texts


def repeat_each(texts: str | Sequence[str], times: int) -> list[str]:
    """Each text `times` times: [a, b] twice is [a, a, b, b]."""
    return [text for text in ([texts] if isinstance(texts, str) else texts) for _ in range(times)]


def seeds_for(seed: int | None, generator: Generators | None, count: int, counting: bool = True) -> list[int]:
    """seed, seed + 1, ... (random if None; all the same if not counting), or what the generators began with."""
    if generator is not None:
        if seed is not None:
            raise ValueError(f"seed={seed} and a generator were given; use one of them")
        return [each.initial_seed() for each in one_each(generator, count)]
    first = draw_seed() if seed is None else seed
    return [first + i * counting for i in range(count)]


def one_each(generator: Generators, count: int) -> list[torch.Generator]:
    """One generator per picture; a single one serves them all in turn."""
    each = [generator] * count if isinstance(generator, torch.Generator) else list(generator)
    if len(each) != count:
        raise ValueError(f"{len(each)} generators for {count} pictures; use one, or one each")
    return each
