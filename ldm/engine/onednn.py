"""oneDNN, PyTorch's library for CPUs: products with weights that are in its own order already."""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor


@cache
def packed_dtypes() -> frozenset[torch.dtype]:
    """The types in which this machine's CPU computes with packed weights; none where PyTorch has no oneDNN."""
    if not torch.backends.mkldnn.is_available():
        return frozenset()
    half = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return frozenset({torch.float32, torch.bfloat16} if half else {torch.float32})


def pack(weight: Tensor) -> Tensor:
    """A weight (D', D) in oneDNN's order."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
    return packed


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, function: str = "none", kind: str = "") -> Tensor:
    """function(x weight^T + bias).

    Args:
        x: (..., D).
        weight: (D', D), packed or not.
        bias: (D',).
        function: "none", or one of oneDNN's post-operations.
        kind: of the function, where it has several.

    Returns:
        (..., D').
    """
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, function, [], kind)
    return out


def linear_and_add(x: Tensor, weight: Tensor, summand: Tensor) -> Tensor:
    """x weight^T + summand. x: (..., D); weight: (D', D), packed or not; summand: (..., D')."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, summand, weight, None, "add")
    return out


class Geometry(NamedTuple):
    """Of a convolution without groups: each (rows, columns)."""

    padding: tuple[int, ...] = (1, 1)
    stride: tuple[int, ...] = (1, 1)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1


def pack_kernel(kernel: Tensor, geometry: Geometry, x: Tensor) -> Tensor:
    """A kernel (C', C, h, w) in oneDNN's order for maps like x; it fits others, for which oneDNN may order it again."""
    kernel = kernel.detach().contiguous().to_mkldnn()
    packed: Tensor = torch.ops.aten.mkldnn_reorder_conv2d_weight(kernel, *geometry, list(x.shape))
    return packed


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """x (B, C, H, W) by a packed kernel; returns (B, C', h, w), channels_last."""
    out: Tensor = torch.ops.mkldnn._convolution_pointwise(x, kernel, bias, *geometry, "none", [], "")
    return out
