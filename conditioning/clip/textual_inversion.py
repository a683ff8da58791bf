"""Textual inversions: words trained as input embeddings of a text tower (Gal et al. 2022, arXiv:2208.01618)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_PAIR = ("clip_l", "clip_g")
"""Names that files give the vectors for the two towers of SDXL, in the order of the towers."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """One textual inversion.

    Attributes:
        name: the word that stands for it in prompts.
        vectors: (n, D) fp32, which take the place of n tokens; for a pair of text towers D holds both towers' vectors
            side by side.
    """

    name: str
    vectors: Tensor


def embedding_of(content: Any, width: int | Sequence[int], name: str, where: str) -> Embedding:
    """The embedding in an opened file, for a text tower of `width`, or for a pair of towers of these widths.

    Args:
        content: what the file holds: `emb_params`, or one tensor named after its word as diffusers writes it; of SDXL's
            `clip_l` and `clip_g` the one that fits, for a pair both; `string_to_param` of A1111 and CompVis.
        width: D of the token table, of each tower.
        name: what prompts call it.
        where: the file, for errors.

    Raises:
        ValueError: it holds no embedding, or one for another width.
    """
    terms = _terms(content)
    widths = [width] if isinstance(width, int) else list(width)
    pair = len(widths) > 1 and set(_PAIR) <= terms.keys()
    found = [{key: terms[key]} for key in _PAIR] if pair else [terms] * len(widths)
    parts = [_fitting(own, each, where) for own, each in zip(found, widths, strict=True)]
    if len({len(part) for part in parts}) > 1:
        raise ValueError(f"{where} has {' and '.join(str(len(part)) for part in parts)} vectors; both must be as many")
    return Embedding(name, torch.cat(parts, dim=1))


def _terms(content: Any) -> dict[str, Tensor]:
    """The tensors of an embedding file by their names in it."""
    if isinstance(content, dict) and "string_to_param" in content:
        content = dict(content["string_to_param"].items())
    if not isinstance(content, dict):
        return {}
    return {
        str(name): value
        for name, value in content.items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() in (1, 2) and value.numel()
    }


def _fitting(terms: dict[str, Tensor], width: int, where: str) -> Tensor:
    if not terms:
        raise ValueError(f"{where} holds no embedding; expected emb_params, string_to_param or a named tensor")
    fitting = {name: value for name, value in terms.items() if value.shape[-1] == width}
    if not fitting:
        found = " and ".join(str(size) for size in sorted({value.shape[-1] for value in terms.values()}))
        raise ValueError(f"{where} is an embedding of width {found}; this text tower has width {width}, so use another")
    if len(fitting) > 1:
        raise ValueError(f"{where} holds several embeddings ({', '.join(fitting)}); save one in each file")
    return next(iter(fitting.values())).detach().float().reshape(-1, width)
