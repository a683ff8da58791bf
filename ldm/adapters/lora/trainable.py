"""LoRA in training: a network that shares all weights with another one and learns low-rank changes of them."""

import copy
import math
from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ldm.adapters.lora.deltas import LowRank
from ldm.adapters.lora.layers import address

Module = TypeVar("Module", bound=nn.Module)


class LowRankChange(nn.Module):
    """weight -> weight + up down (Hu et al. 2021, "LoRA", equation 3), with up = 0 at first.

    Args:
        weight: `(O, I)` or `(O, I, kh, kw)`.
        rank: r.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(weight.new_empty(rank, *weight.shape[1:]))
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], rank, *[1] * (weight.ndim - 2)))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight."""
        return weight + (self.up.flatten(1) @ self.down.flatten(1)).reshape(weight.shape)


def with_low_rank_changes(network: Module, rank: int, parts: Iterable[str] = ("",)) -> Module:
    """A network whose trainable parameters are low-rank changes of the layers of another one.

    At first it answers as that one does, whose frozen weights it shares and does not copy. What a layer's `weight` is
    used for does not matter, so it works under folded and fused kernels too.

    Args:
        network: the other one.
        rank: of the changes; at most that of a layer's weight.
        parts: beginnings of the names of layers that are changed; by default all.
    """
    changed = copy.deepcopy(network, {id(parameter): parameter for parameter in network.parameters()})
    changed.requires_grad_(False)
    layers = [
        layer
        for name, layer in changed.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and name.startswith(tuple(parts))
    ]
    for layer in layers:
        most = min(layer.weight.shape[0], layer.weight[0].numel())
        parametrize.register_parametrization(layer, "weight", LowRankChange(layer.weight, min(rank, most)))
    return changed


def begin_with(network: nn.Module, changes: Mapping[str, LowRank], tower: str) -> None:
    """Let a network of `with_low_rank_changes` begin with these changes; directions that they lack are free to learn.

    Args:
        network: its layers that are not mentioned stay as they are.
        changes: by address, of trained layers; of two factors each.
        tower: which network of a model it is, one of `TOWERS`.

    Raises:
        ValueError: a rank above the trained one; names the layer.
    """
    trained = {address(tower, name): change for name, layer in network.named_modules() if (change := _change(layer))}
    for layer, start in changes.items():
        change = trained[layer]
        if start.rank > len(change.down):
            raise ValueError(f"the LoRA has rank {start.rank} at {layer}; set lora_rank={start.rank} (or above)")
        with torch.no_grad():
            change.down[: start.rank] = start.down
            change.up[:, : start.rank] = start.scale * start.up.reshape(len(start.up), start.rank, *change.up.shape[2:])


def changes_of(network: nn.Module, tower: str) -> dict[str, LowRank]:
    """The changes that a network of `with_low_rank_changes` has learned, by address, for `ldm.io.lora.write.save_lora`.

    Args:
        network: or an average of it.
        tower: which network of a model it is, one of `TOWERS`.
    """
    return {
        address(tower, name): LowRank(change.down.detach(), change.up.detach())
        for name, layer in network.named_modules()
        if (change := _change(layer)) is not None
    }


def _change(layer: nn.Module) -> LowRankChange | None:
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    (change,) = layer.parametrizations["weight"]  # type: ignore[index,union-attr]
    assert isinstance(change, LowRankChange)
    return change
