"""How near a restored picture is to the truth: PSNR and SSIM."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_WINDOW, _SD = 11, 1.5
_MOST = 100.0
"""dB of equal pictures, so that means are finite."""


def psnr(picture: Tensor, truth: Tensor) -> float:
    """dB between two pictures in [0, 1] of any equal shape; 100 where they are equal."""
    error = float((picture.double() - truth.double()).square().mean())
    return min(_MOST, -10 * math.log10(error)) if error else _MOST


def ssim(picture: Tensor, truth: Tensor) -> float:
    """Structural similarity (Wang et al. 2004) of two pictures (C, H, W) in [0, 1], the mean of their channels.

    Gaussian windows of 11 pixels, deviation 1.5; windows over the edge are left out, or shrunk for small pictures.
    """
    size = min(_WINDOW, *picture.shape[1:])
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    line = torch.exp(-(place**2) / (2 * _SD**2))
    line = line / line.sum()

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x[:, None], line.view(1, 1, 1, -1)), line.view(1, 1, -1, 1))

    x, y = picture.double(), truth.double()
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return float((((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean())
