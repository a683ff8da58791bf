"""The bytes that an optimizer keeps for the weights that it trains. Needs shapes alone: weights may be on meta."""

import math
from collections.abc import Sequence

from torch import nn

_BLOCK, _SMALL = 256, 4096
"""bitsandbytes: a scale for each block of 256 numbers; tensors of fewer than 4096 numbers keep fp32 moments."""


def moment_bytes(module: nn.Module, optimizer: str, parts: int = 1) -> int:
    """The moments of everything trained in `module`, in the process with the most.

    Args:
        module: the network.
        optimizer: a key of `ldm.training.config.OPTIMIZERS`.
        parts: processes among which tensors are split along their first axis.
    """
    embeddings = {id(each.weight) for each in module.modules() if isinstance(each, nn.Embedding)}
    total = 0
    for parameter in module.parameters():
        if parameter.requires_grad:
            shape = tuple(parameter.shape)
            shape = (-(-shape[0] // parts), *shape[1:]) if shape else shape
            by_muon = optimizer == "muon" and len(shape) == 2 and id(parameter) not in embeddings
            total += 4 * math.prod(shape) if by_muon else _BYTES[optimizer](shape)
    return total


def _adamw(shape: Sequence[int]) -> int:
    return 8 * math.prod(shape)


def _adamw8bit(shape: Sequence[int]) -> int:
    numbers = math.prod(shape)
    return 8 * numbers if numbers < _SMALL else 2 * numbers + 2 * 4 * -(-numbers // _BLOCK)


def _adafactor(shape: Sequence[int]) -> int:
    """A row and a column of the last two axes in place of the whole (Shazeer & Stern 2018, algorithm 4)."""
    if len(shape) < 2:
        return 4 * math.prod(shape)
    return 4 * math.prod(shape[:-2]) * (shape[-2] + shape[-1])


_BYTES = {"adamw": _adamw, "adamw8bit": _adamw8bit, "adafactor": _adafactor, "muon": _adamw}
