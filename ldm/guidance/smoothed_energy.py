"""Smoothed-energy guidance (SEG): away from a network that attends with blurred queries."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ldm.denoiser import ConditionalDenoiser
from ldm.guidance.attention import MIDDLE, AttentionGuidance
from ldm.guidance.chain import GuidedDenoiser
from ldm.guidance.interval import WHOLE, Interval
from ldm.networks.attention import attend
from ldm.networks.unet.blocks import AttentionHook

_ENDLESS = 9999.0


def blur(q: Tensor, height: int, width: int, sigma: float) -> Tensor:
    """Gaussian blur of queries over the picture that they come from (Hong 2024, "SEG", section 4).

    Args:
        q: `(B, N, L, D)`, L = height * width.
        height, width: of the feature map.
        sigma: standard deviation in tokens; above 9999 (as in diffusers) each query becomes the mean of all.

    Returns:
        `(B, N, L, D)`. The kernel is cut at 3 sigma and at the picture's size; edges are reflected.
    """
    if sigma > _ENDLESS:
        return q.mean(dim=2, keepdim=True).expand_as(q)
    maps = q.transpose(2, 3).reshape(-1, 1, height, width)
    across, down = _kernel(sigma, width).to(q), _kernel(sigma, height).to(q)
    maps = F.pad(maps, [len(across) // 2] * 2 + [len(down) // 2] * 2, mode="reflect")
    maps = F.conv2d(F.conv2d(maps, across[None, None, None, :]), down[None, None, :, None])
    return maps.reshape(*q.shape[:2], q.shape[3], q.shape[2]).transpose(2, 3)


def _kernel(sigma: float, size: int) -> Tensor:
    """Normalised Gaussian of odd length, 6 sigma long, and short enough that `size` pixels can be reflected by it."""
    length = min(math.ceil(6 * sigma) // 2 * 2 + 1, size // 2 * 2 + 1 if size > 1 else 1)
    places = torch.arange(length, dtype=torch.float32) - length // 2
    weights = torch.exp(-0.5 * (places / sigma) ** 2)
    return weights / weights.sum()


@dataclass(frozen=True)
class BlurredQueries:
    """In the given layers the queries are blurred before they attend.

    Attributes:
        layers: names of self-attention layers.
        sigma: see `blur`.
        height, width: of x; the feature maps have these sizes halved, rounded up, some number of times.
    """

    layers: frozenset[str]
    sigma: float
    height: int
    width: int

    def __call__(self, layer: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v `(B, N, L, D)`; returns the same shape."""
        if layer not in self.layers:
            return attend(q, k, v)
        return attend(blur(q, *self._size(layer, q.shape[2]), self.sigma), k, v)

    def _size(self, layer: str, length: int) -> tuple[int, int]:
        height, width = self.height, self.width
        while height * width > length:
            height, width = -(-height // 2), -(-width // 2)
        if height * width != length:
            raise ValueError(f"SEG: {layer} has {length} tokens, which is no halving of {self.height} x {self.width}")
        return height, width


class SmoothedEnergyGuidance(AttentionGuidance):
    """`AttentionGuidance` with blurred queries (Hong 2024, "SEG"); `seg_scale` is 3 in the paper.

    Args:
        denoiser, scale, layers, interval: see `AttentionGuidance`.
        blur_sigma: standard deviation of the blur, in tokens of the layer, > 0; infinity is the mean of all queries.

    Raises:
        ValueError: names the argument that is out of range, or the layer that does not exist.
    """

    word = "seg"

    def __init__(
        self,
        denoiser: ConditionalDenoiser | GuidedDenoiser,
        scale: float,
        layers: str | Sequence[str] = MIDDLE,
        blur_sigma: float = math.inf,
        interval: Interval = WHOLE,
    ) -> None:
        check_blur(blur_sigma)
        super().__init__(denoiser, scale, layers, interval)
        self.blur_sigma = blur_sigma

    def _hook(self, x: Tensor) -> AttentionHook:
        return BlurredQueries(self.layers, self.blur_sigma, x.shape[-2], x.shape[-1])


def check_blur(sigma: float) -> None:
    """Raises ValueError, naming the argument, unless sigma > 0."""
    if not sigma > 0:
        raise ValueError(f"seg_blur_sigma={sigma} must be above 0; infinity is the mean of all queries")
