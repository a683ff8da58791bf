"""The difference between two networks of one shape as an adapter: what a fine-tune changed, in low rank."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ldm.adapters.lora.deltas import Delta, LowRank, Whole
from ldm.adapters.lora.layers import Place, changeable_parameters


@dataclass(frozen=True)
class Extracted:
    """An adapter, and how much of the difference it holds.

    Attributes:
        deltas: by address.
        kept: the share of the squared difference of all weights, 0 to 1.
    """

    deltas: dict[str, Delta]
    kept: float


@torch.inference_mode()
def low_rank_difference(base: nn.Module, tuned: nn.Module, tower: str, rank: int) -> Extracted:
    """base + deltas is as near to `tuned` as changes of this rank can be (Eckart and Young 1936), layer by layer.

    Biases and norms, which have no rank, are kept whole; what is equal in both is left out, and so are tables of
    embeddings, for which other programs have no low rank.

    Args:
        base: the network that the adapter will be merged into.
        tuned: of the same shape.
        tower: which network of a model they are, one of `ldm.adapters.lora.layers.TOWERS`.
        rank: r; smaller layers have all of their own.

    Raises:
        ValueError: rank below 1, or networks of different shapes.
    """
    if rank < 1:
        raise ValueError(f"rank={rank} must be at least 1; 32 to 128 are usual")
    deltas: dict[str, Delta] = {}
    total = left = 0.0
    for name, place, difference in _differences(base, tuned, tower):
        total += difference.square().sum().item()
        if isinstance(place.module, nn.Embedding):
            left += difference.square().sum().item()
            continue
        deltas[name] = delta = _nearest(difference, rank)
        left += (difference - delta.product(difference.device).reshape(difference.shape)).square().sum().item()
    return Extracted(deltas, 1 - left / total if total else 1.0)


@torch.inference_mode()
def whole_difference(base: nn.Module, tuned: nn.Module, tower: str) -> dict[str, Delta]:
    """All that `tuned` has changed, embeddings too, as LyCORIS' full modules: base + deltas is `tuned`.

    Args:
        base: the network that the adapter will be merged into.
        tuned: of the same shape.
        tower: which network of a model they are, one of `ldm.adapters.lora.layers.TOWERS`.

    Raises:
        ValueError: networks of different shapes.
    """
    return {name: Whole(difference) for name, _, difference in _differences(base, tuned, tower)}


def _differences(base: nn.Module, tuned: nn.Module, tower: str) -> Iterator[tuple[str, Place, Tensor]]:
    """Address, place in `base` and tuned - base, fp32, of every parameter that is not the same in both."""
    places, others = changeable_parameters({tower: base}), changeable_parameters({tower: tuned})
    shapes, their_shapes = ({name: each.parameter.shape for name, each in all_.items()} for all_ in (places, others))
    for name in sorted(shapes.keys() | their_shapes.keys()):
        if shapes.get(name) != their_shapes.get(name):
            raise ValueError(f"{name} has another shape in the two networks; take the model that was fine-tuned")
    for name, place in places.items():
        difference = others[name].parameter.float() - place.parameter.float()
        if bool(difference.any()):
            yield name, place, difference


def _nearest(difference: Tensor, rank: int) -> LowRank | Whole:
    """The nearest change of this rank: the difference projected onto its strongest output directions."""
    if difference.ndim < 2:
        return Whole(difference)
    flat = difference.flatten(1)
    rank = min(rank, *flat.shape)
    if flat.shape[0] <= flat.shape[1]:
        up = torch.linalg.eigh(flat.double() @ flat.double().T).eigenvectors[:, -rank:].float()
        down = up.T @ flat
    else:
        right = torch.linalg.eigh(flat.double().T @ flat.double()).eigenvectors[:, -rank:].float()
        up, down = flat @ right, right.T
    # Factors of like size keep their digits in half precision.
    ratio = (up.norm() / down.norm()).sqrt()
    up, down = up / ratio, down * ratio
    return LowRank(
        down.reshape(rank, *difference.shape[1:]).contiguous(),
        up.reshape(-1, rank, *[1] * (difference.ndim - 2)).contiguous(),
    )
