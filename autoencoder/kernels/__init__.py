"""Layers with kernels of our own, for what PyTorch's are slow at on CPUs; one switch turns all of them off.

Each layer is the PyTorch layer of its name, with the same parameters and the same result up to rounding.
"""

from autoencoder.kernels.convolution import Conv2d
from autoencoder.kernels.doubling import (
    corner_kernels,
    double_and_convolve,
    double_and_convolve_transposed,
    interleave,
)
from autoencoder.kernels.geglu import geglu
from autoencoder.kernels.group_norm import GroupNorm
from autoencoder.kernels.switch import cpu_kernels, uses_kernels

__all__ = [
    "Conv2d",
    "GroupNorm",
    "corner_kernels",
    "cpu_kernels",
    "double_and_convolve",
    "double_and_convolve_transposed",
    "geglu",
    "interleave",
    "uses_kernels",
]
