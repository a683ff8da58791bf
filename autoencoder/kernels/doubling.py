"""A 3x3 convolution of a doubled picture, computed without making the doubled picture."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from autoencoder.kernels.convolution import convolve


def double_and_convolve_transposed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`double_and_convolve` as one transposed convolution; 4/9 of the multiplications, 2.2 times as fast as making it.

    Args:
        x: (B, C, h, w).
        weight: (C', C, 3, 3).
        bias: (C',) or None.

    Returns:
        (B, C', 2 h, 2 w).
    """
    return F.conv_transpose2d(x, repeated_kernel(weight), bias, stride=2, padding=1)


def repeated_kernel(weight: Tensor) -> Tensor:
    """The transposed 4x4 kernel of stride 2 that equals repeating every position and a 3x3 convolution.

    Of the three taps along an axis two always fall on the same repeated position, so they are added beforehand.

    Args:
        weight: (C', C, 3, 3).

    Returns:
        (C, C', 4, 4), for `conv_transpose2d` with stride 2 and padding 1.
    """
    for axis in (2, 3):
        first, middle, last = weight.unbind(axis)
        weight = torch.stack([last, middle + last, first + middle, first], dim=axis)
    return weight.transpose(0, 1)


def double_and_convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution of the doubled x without making it: four 2x2 convolutions of x, one for each corner of a pixel.

    That is 16 products for 36 (Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?").

    Args:
        x: (B, C, h, w).
        weight: (C', C, 3, 3).
        bias: (C',) or None.

    Returns:
        (B, C', 2 h, 2 w), channels_last.
    """
    return interleave(convolve(x, corner_kernels(weight), None if bias is None else bias.repeat(4), 1))


def corner_kernels(weight: Tensor) -> Tensor:
    """The kernels of the four corners: (C', C, 3, 3) -> (4 C', C, 2, 2).

    Doubled rows are equal in pairs, so the three rows that a kernel covers are two rows of x, and two of its rows add
    up: an even output row sees w0 above and w1 + w2 below, an odd one w0 + w1 above and w2 below. So do columns.
    """
    rows = torch.tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], dtype=weight.dtype)
    fold = torch.einsum("aur,bvs->abuvrs", rows, rows).reshape(16, 9)
    outputs, inputs = weight.shape[:2]
    kernels = (fold @ weight.permute(0, 2, 3, 1).flatten(1, 2)).reshape(outputs, 2, 2, 2, 2, inputs)
    return kernels.permute(1, 2, 0, 3, 4, 5).flatten(0, 2).permute(0, 3, 1, 2)


def interleave(corners: Tensor) -> Tensor:
    """What the kernels of the corners give, with a padding of 1: (B, 4 C, h + 1, w + 1) -> (B, C, 2 h, 2 w)."""
    out: Tensor = _Interleave.apply(corners)
    return out


class _Interleave(torch.autograd.Function):
    """Corner (a, b) of pixel (i, j) is the convolution at (i + a, j + b): (B, 4C, h + 1, w + 1) -> (B, C, 2h, 2w)."""

    @staticmethod
    def forward(ctx: Any, corners: Tensor) -> Tensor:
        batch, channels, height, width = corners.shape
        corners = corners.permute(0, 2, 3, 1).unflatten(-1, (2, 2, channels // 4))
        out = corners.new_empty(batch, height - 1, 2, width - 1, 2, channels // 4)
        for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
            out[:, :, a, :, b] = corners[:, a : height - 1 + a, b : width - 1 + b, a, b]
        return out.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        batch, channels, height, width = grad.shape
        height, width = height // 2, width // 2
        grad = grad.permute(0, 2, 3, 1).unflatten(2, (width, 2)).unflatten(1, (height, 2))
        out = grad.new_zeros(batch, height + 1, width + 1, 2, 2, channels)
        for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
            out[:, a : height + a, b : width + b, a, b] = grad[:, :, a, :, b]
        return out.flatten(3).permute(0, 3, 1, 2)
