"""CLIP's text towers on one prompt and an empty one: 2 rows of 77 tokens to states."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.measuring import Comparison, Options, Side, compare
from benchmarks.networks import family_of, text_towers, their_sides
from conditioning.clip.vocabulary import clip_tokenizer
from ldm.families.family import Tower

PROMPTS = ["a watercolour of a lighthouse on a cliff at dawn, gulls in the wind, soft light", ""]


def run(options: Options) -> Iterator[Comparison]:
    """CLIP-L, which SD 1.x and SDXL read, and OpenCLIP's bigG, SDXL's second."""
    for title, tower in zip(("CLIP-L", "OpenCLIP bigG"), family_of("sdxl", options.quick).towers, strict=True):
        for dtype in options.dtypes:
            yield _tower(title, tower, options, dtype)


def _tower(title: str, tower: Tower, options: Options, dtype: torch.dtype) -> Comparison:
    ours, theirs = text_towers(tower, options, dtype)
    tokens = clip_tokenizer(tower.pad_token)(PROMPTS, padding="max_length", truncation=True, return_tensors="pt")
    ids = tokens.input_ids.to(options.device)
    sides = their_sides("transformers", theirs, _states, (ids,), options, dtype)
    sides.append(Side("ldm", lambda: lambda: ours(ids).last_hidden_state, ours=True))
    return compare(f"{title} on 2 prompts", sides, options, dtype)


def _states(tower: nn.Module, ids: Tensor) -> Tensor:
    return tower(input_ids=ids).last_hidden_state
