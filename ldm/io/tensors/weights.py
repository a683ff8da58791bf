"""Tensors that are still in their file: shape and type are known, the numbers are read when they are needed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True)
class LazyTensor:
    """A tensor in a file.

    Attributes:
        read: the tensor in a dtype, or as it is stored for None, which costs no memory where the file is mapped.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[torch.dtype | None], Tensor]

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * self.dtype.itemsize


Weights = Mapping[str, LazyTensor]


def in_memory(tensor: Tensor) -> LazyTensor:
    """A tensor that is in memory, as a Weight."""
    return LazyTensor(tuple(tensor.shape), tensor.dtype, lambda dtype: tensor.detach().cpu().to(dtype or tensor.dtype))


def cast(weight: LazyTensor, dtype: torch.dtype | None) -> LazyTensor:
    """The weight as if stored in `dtype`; None and whole numbers stay as they are."""
    if dtype is None or dtype == weight.dtype or not weight.dtype.is_floating_point:
        return weight
    return LazyTensor(weight.shape, dtype, lambda other: weight.read(dtype).to(other or dtype))


def reshaped(weight: LazyTensor, shape: Sequence[int]) -> LazyTensor:
    """The same numbers in another shape."""
    return LazyTensor(tuple(shape), weight.dtype, lambda dtype: weight.read(dtype).reshape(shape))


def transposed(weight: LazyTensor) -> LazyTensor:
    """A matrix (A, B) as (B, A)."""
    return LazyTensor(weight.shape[::-1], weight.dtype, lambda dtype: weight.read(dtype).T.contiguous())


def row_block(weight: LazyTensor, index: int, blocks: int) -> LazyTensor:
    """Block `index` of `blocks` equal ones along the first axis (N, ...)."""
    rows = weight.shape[0] // blocks
    shape = (rows, *weight.shape[1:])
    return LazyTensor(shape, weight.dtype, lambda dtype: weight.read(dtype)[index * rows : (index + 1) * rows])


def stacked(weights: Sequence[LazyTensor]) -> LazyTensor:
    """Weights of one type and shape (N, ...) along the first axis: the inverse of `row_block`."""
    first = weights[0]
    shape = (sum(weight.shape[0] for weight in weights), *first.shape[1:])
    return LazyTensor(shape, first.dtype, lambda dtype: torch.cat([weight.read(dtype) for weight in weights]))
