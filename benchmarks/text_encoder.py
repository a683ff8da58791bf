"""CLIP's text towers on one prompt and an empty one: 2 rows of 77 tokens to states."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.measuring import Comparison, Options, Outcome, Side, compare
from benchmarks.networks import family_of, text_config, text_towers, their_sides, weights_of
from benchmarks.processes import in_rounds, named, warm_outcome
from conditioning.clip.transformer import ClipTextModel
from conditioning.clip.vocabulary import clip_tokenizer
from ldm.engine.choose import engine_for
from ldm.engine.names import EAGER_NAME, PACKED
from ldm.families.family import Tower

PROMPTS = ["a watercolour of a lighthouse on a cliff at dawn, gulls in the wind, soft light", ""]


def run(options: Options) -> Iterator[Comparison]:
    """CLIP-L, which SD 1.x and SDXL read, and OpenCLIP's bigG, SDXL's second."""
    for title, tower in zip(("CLIP-L", "OpenCLIP bigG"), family_of("sdxl", options.quick).towers, strict=True):
        for dtype in options.dtypes:
            yield _tower(title, tower, options, dtype)


def _tower(title: str, tower: Tower, options: Options, dtype: torch.dtype) -> Comparison:
    config = text_config(tower, options.quick)
    weights = weights_of(lambda: ClipTextModel(config, tower.projected), dtype)
    sides = in_rounds(tower_sides(tower, options, dtype), weights, options, encode, tower, options, dtype)
    return compare(f"{title} on 2 prompts", sides, options, dtype)


def encode(side: str, tower: Tower, options: Options, dtype: torch.dtype) -> Outcome:
    """Warm calls of a tower by one side, in this process."""
    return warm_outcome(named(tower_sides(tower, options, dtype), side), options)


def tower_sides(tower: Tower, options: Options, dtype: torch.dtype) -> list[Side]:
    """transformers' tower and ours, which are built when a side is made."""
    make, theirs = text_towers(tower, options, dtype)
    tokens = clip_tokenizer(tower.pad_token)(PROMPTS, padding="max_length", truncation=True, return_tensors="pt")
    ids = tokens.input_ids.to(options.device)

    def ours(engine: str) -> Callable[[], Tensor]:
        network = engine_for(engine, options.device).view(make())
        return lambda: network(ids).last_hidden_state

    sides = their_sides("transformers", theirs, _states, (ids,), options, dtype)
    engines = [engine for engine in options.engines if engine in (EAGER_NAME, PACKED)]  # the others leave it to eager
    return sides + [Side(f"ldm, {engine}", partial(ours, engine), ours=True) for engine in engines]


def _states(tower: nn.Module, ids: Tensor) -> Tensor:
    return tower(input_ids=ids).last_hidden_state
