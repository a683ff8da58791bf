"""Convolutions of small feature maps, whose weight gradient is slow in PyTorch's kernels for CPUs in bf16."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from autoencoder.kernels.switch import uses_kernels

_SHORT_ROW, _LONG_ROW = 5, 17
_SOME_WEIGHTS, _MANY_WEIGHTS = 2**16, 2**19


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` of stride 1, see `convolve`."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W); returns (B, C', h, w)."""
        return convolve(x, self.weight, self.bias, int(self.padding[0]))


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """A convolution of stride 1, the like of `F.conv2d`. x: (B, C, H, W); weight: (C', C, k, k); returns (B, C', h, w).

    Where it is trained on a CPU in bf16, and the rows of the maps are short for so large a kernel, its gradient is
    found by a matrix product of patches, which takes a quarter of the time at 64 maps of 256 x 4 x 4, half of it at 4
    of 640 x 16 x 16.
    """
    trained = torch.is_grad_enabled() and weight.requires_grad
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if not (trained and uses_kernels(x) and dtype is torch.bfloat16 and _is_small(x, weight, padding)):
        return F.conv2d(x, weight, bias, padding=padding)
    x, weight = x.to(dtype, memory_format=torch.channels_last), weight.to(dtype)
    return _SmallMap.apply(x, weight, None if bias is None else bias.to(dtype), padding)


def _is_small(x: Tensor, weight: Tensor, padding: int) -> bool:
    width = x.shape[3] + 2 * padding - weight.shape[3] + 1
    return width <= _LONG_ROW and weight.numel() >= (_SOME_WEIGHTS if width <= _SHORT_ROW else _MANY_WEIGHTS)


class _SmallMap(torch.autograd.Function):
    """`F.conv2d` with dweight = dy^T patches(x), rows being pixels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.biased = padding, bias is not None
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        rows = grad.permute(0, 2, 3, 1).flatten(0, 2)
        size = tuple(weight.shape[2:])
        dx = conv2d_input(x.shape, weight, grad, padding=ctx.padding)
        # Transposed in memory first: the product of a transposed view takes up to twice as long.
        dweight = rows.t().contiguous() @ patches(x, size, ctx.padding)
        dweight = dweight.unflatten(1, (*size, -1)).permute(0, 3, 1, 2)
        return dx, dweight, rows.sum(0) if ctx.biased else None, None


def patches(x: Tensor, size: tuple[int, int], padding: int) -> Tensor:
    """The patches that a kernel of `size` covers at each output pixel of x (B, C, H, W): (B h w, size[0] size[1] C)."""
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    windows = padded.unfold(1, size[0], 1).unfold(2, size[1], 1)
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, size[0] * size[1] * x.shape[1])
