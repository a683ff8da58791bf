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
from ldm.networks.attention import AttentionHook, AttentionLayer

_ENDLESS = 9999.0


def blur(q: Tensor, height: int, width: int, sigma: float) -> Tensor:
    """Gaussian blur of queries over the picture that they come from (Hong 2024, "SEG", section 4).

    Args:
        q: `(B, N, L, D)`, L = height * width.
        height: of the feature map.
        width: of the feature map.
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
        grids: name of a self-attention layer, height and width of the picture in it, in tokens.
        sigma: see `blur`.
    """

    grids: tuple[tuple[str, tuple[int, int]], ...]
    sigma: float

    def __call__(self, layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q, k, v `(B, N, L, D)`, mask `(B, L)`; returns q's shape."""
        grid = dict(self.grids).get(layer.name)
        return layer.attend(q if grid is None else blur(q, *grid, self.sigma), k, v, mask)


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
        height, width = x.shape[-2:]
        grids = tuple((layer, self.source.token_grid(layer, height, width)) for layer in sorted(self.layers))
        return BlurredQueries(grids, self.blur_sigma)


def check_blur(sigma: float) -> None:
    """Refuse a sigma of 0 or less.

    Raises:
        ValueError: names the argument.
    """
    if not sigma > 0:
        raise ValueError(f"seg_blur_sigma={sigma} must be above 0; infinity is the mean of all queries")
