"""Halving and doubling of the resolution inside the U-Net."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.kernels import double_and_convolve, uses_kernels

_WORTH_FOLDING = 1024
"""Pixels in a batch from which on folding the kernel costs less than the arithmetic that it saves (CPU)."""


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2."""

    margin, scale = 2, 0.5  # see `autoencoder.seamless`

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W); returns (B, C, ceil(H / 2), ceil(W / 2))."""
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest-neighbour enlargement to a given size, then a 3x3 convolution."""

    margin, scale = 1, 2

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """x: (B, C, h, w); returns (B, C, *size)."""
        batch, _, height, width = x.shape
        doubled = tuple(size) == (2 * height, 2 * width)
        last = x.is_contiguous(memory_format=torch.channels_last)
        if last and doubled and batch * height * width >= _WORTH_FOLDING and uses_kernels(x):
            return double_and_convolve(x, self.conv.weight, self.conv.bias)
        return self.conv(F.interpolate(x, size=size, mode="nearest"))
