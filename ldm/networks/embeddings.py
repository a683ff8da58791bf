"""Embeddings of the time, the label and the picture's sizes."""

import math

import torch
from torch import Tensor, nn


def sinusoid(x: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding of numbers, cosines first (Vaswani et al. 2017, section 3.5; order as in DDPM's successors).

    Args:
        x: (N,) any real dtype.
        dim: length of each embedding.

    Returns:
        (N, dim) fp32; an odd `dim` ends in a zero.
    """
    half = dim // 2
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=x.device) / half)
    angle = x.float()[:, None] * frequency[None, :]
    return nn.functional.pad(torch.cat([angle.cos(), angle.sin()], dim=-1), (0, dim % 2))


class VectorMLP(nn.Module):
    """Linear, SiLU, linear: from a fixed embedding `(B, in_dim)` to the width of the time vector `(B, out_dim)`."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, out_dim)
        self.linear_2 = nn.Linear(out_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, in_dim) of any float dtype; returns (B, out_dim)."""
        return self.linear_2(nn.functional.silu(self.linear_1(x.to(self.linear_1.weight.dtype))))
