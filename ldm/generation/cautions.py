"""What to say before drawing: requests that a model can follow, but hardly as they are meant."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from conditioning.prompt.words import words_of
from ldm.adapters.lora.tags import lora_tags
from ldm.engine.precision import best_dtype
from ldm.generation.request import Request
from ldm.io import library

if TYPE_CHECKING:
    from ldm.generation.opened_model import OpenedModel

_AREA = 1.5
_SHOWN = 5
_WILDCARD = re.compile(r"(?<!\\)__[\w./-]+?__")
_TAG_IN_EDIT = re.compile(r"\[[^\[\]]*<(?:lora|lyco):[^>]+>[^\[\]]*\]")
_KEYWORDS = re.compile(r"\b(?:BREAK|AND|ADDROW|ADDCOL|ADDBASE|ADDCOMM)\b")


def cautions(model: "OpenedModel", request: Request) -> list[str]:
    """What of a request the model cannot be expected to follow, a line each, before the seconds it takes to draw.

    These are words that no caption of its training had, sizes far from those it was trained on, an emulated number
    format, wildcards that are read as text, and LoRA tags that seem to change on the way.
    """
    texts = [*request.prompts, *([request.negative_prompt] if isinstance(request.negative_prompt, str) else ())]
    lines = [*_words(model, request), *_size(model, request), *_dtype(model)]
    if request.variation_seed is not None and not request.variation_strength:
        lines.append(f"--variation {request.variation_seed} changes nothing without --variation-strength 0.3 or so")
    wildcards = dict.fromkeys(name for text in texts for name in _WILDCARD.findall(text))
    if request.wildcards is None and library.wildcards() is None and wildcards:
        lines.append(f"{', '.join([*wildcards][:_SHOWN])} is read as text; --wildcards DIR says where its file is")
    if any(_TAG_IN_EDIT.search(text) for text in texts):
        lines.append("a LoRA tag inside [...] holds for the whole picture, not for a part of the steps")
    return lines


def _words(model: "OpenedModel", request: Request) -> Iterator[str]:
    known = model.parts.words
    if known is None:
        return
    texts = [_KEYWORDS.sub(" ", _WILDCARD.sub(" ", lora_tags(prompt)[0])) for prompt in request.prompts]
    # A plural is known by its singular: that is how captions of counts are made.
    words = sorted(words_of(texts) - words_of(model.embeddings))
    unknown = [word for word in words if not {word, word.removesuffix("s")} & known]
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        shown = ", ".join(map(repr, unknown[:_SHOWN]))
        yield f"no caption that {model.name} was trained on has the words {shown}{more}; expect something else"


def _size(model: "OpenedModel", request: Request) -> Iterator[str]:
    parts, own = model.parts, model.parts.defaults
    enlarged = parts.upscaler.config.factor if request.upscale and parts.upscaler is not None else 1
    width, height = own.width * enlarged, own.height * enlarged
    size = (request.width or width), (request.height or height)
    if request.tile_size is not None:
        size = min(size[0], request.tile_size), min(size[1], request.tile_size)
    ratio = size[0] * size[1] / (width * height)
    if not 1 / _AREA <= ratio <= _AREA:
        times = f"{ratio:.2g} times" if ratio > 1 else f"1/{1 / ratio:.2g} of"
        trained = f"the area that {model.name} was trained on ({width} x {height})"
        tile = "a tile of " if request.tile_size is not None else ""
        yield f"{tile}{size[0]} x {size[1]} is {times} {trained}; expect repeats or a blur"


def _dtype(model: "OpenedModel") -> Iterator[str]:
    parameter = next(model.parts.unet.parameters())
    if parameter.device.type == "cpu" and parameter.dtype != torch.float32 and is_emulated(parameter.dtype):
        name = str(parameter.dtype).removeprefix("torch.")
        yield f"{name} is emulated on this CPU and many times slower than float32; leave --dtype out"


def is_emulated(dtype: torch.dtype) -> bool:
    """Whether this machine's CPU has no instructions for a half-precision type."""
    return dtype != torch.bfloat16 or best_dtype(torch.device("cpu")) == torch.float32
