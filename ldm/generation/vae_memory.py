"""What an autoencoder needs to encode or decode a picture, and the tiles in which it needs no more than it may."""

import math
from dataclasses import dataclass

import torch

from autoencoder.build import Autoencoder
from autoencoder.kernels.strips import LARGE
from autoencoder.kl import KLAutoencoder
from autoencoder.large_maps import VERY_LARGE
from autoencoder.tiles import Tiling
from autoencoder.vq import VQAutoencoder

VAE_MEMORY = 4.0
"""GB that decoding may take before it goes tile by tile.

By decoders of Stable Diffusion's size that are more than 1,024 px a side in fp32 on a GPU, and 2,048 px on a CPU.
"""

_LEAST_TILE = 16
"""Cells; the edges of smaller tiles would show."""

_OVERLAP = 128
"""Pixels that neighbours share, a quarter of small tiles; decoders of Stable Diffusion's size look 98 away."""

# Memory beside the weights for each byte that is surely there; measured for Stable Diffusion's decoder.
_PLAIN = 2.4
_IN_STRIPS = 1.4
_VERY_LARGE = 1.2


@dataclass(frozen=True)
class VaeMemory:
    """Sizes of an autoencoder's maps on a device.

    Attributes:
        autoencoder: which encodes or decodes; decoding takes more.
        factor: pixels per cell of its latents.
        device: that computes.
        wraps: along which axes pictures go round.
    """

    autoencoder: Autoencoder
    factor: int
    device: torch.device
    wraps: tuple[bool, bool] = (False, False)

    def tiling(self, cells: tuple[int, int], gigabytes: float) -> Tiling | None:
        """How latents are cut into tiles; None where all of them fit.

        Args:
            cells: height and width of the latents.
            gigabytes: that coding may take, 1e9 bytes each.
        """
        if self._needed(cells[0] * cells[1] * self.factor**2) <= gigabytes * 1e9:
            return None
        most = max(int(math.sqrt(self._largest_tile(gigabytes))) // self.factor, _LEAST_TILE)
        if max(cells) <= most:
            return None
        overlap = min(most // 4, -(-_OVERLAP // self.factor))
        sizes = (_even(length, most, overlap, wraps) for length, wraps in zip(cells, self.wraps, strict=True))
        return Tiling(max(*sizes, _LEAST_TILE), overlap, self.wraps)

    def smaller(self, cells: tuple[int, int], gigabytes: float) -> float | None:
        """The GB in which tiles have half the side that they have now; None where there are no smaller ones.

        Args:
            cells: height and width of the latents.
            gigabytes: that coding may take now.
        """
        tiling = self.tiling(cells, gigabytes)
        size = math.isqrt(cells[0] * cells[1]) if tiling is None else tiling.size
        if size <= _LEAST_TILE:
            return None
        side = (max(size // 2, _LEAST_TILE) + 0.5) * self.factor  # half a cell more, so that rounding takes none away
        return self._needed_by_a_tile(side**2) / 1e9

    def at_least(self, pixels: float) -> float:
        """Bytes of the maps on both sides of the decoder's last change of width, less than which no way makes.

        Args:
            pixels: of a whole picture.
        """
        if self._is_very_large(pixels):  # the wider map is the one before it is doubled
            return self._map(pixels, 0) + self._map(pixels / 4, 1)
        return self.at_least_of_a_tile(pixels)

    def at_least_of_a_tile(self, pixels: float) -> float:
        """Likewise, of a tile of so many pixels."""
        return self._map(pixels, 0) + self._map(pixels, 1)

    def _needed(self, pixels: float) -> float:
        if self._is_very_large(pixels):
            return _VERY_LARGE * self.at_least(pixels)
        return self._needed_by_a_tile(pixels)

    def _needed_by_a_tile(self, pixels: float) -> float:
        in_strips = self._in_strips and self._map(pixels, 0) >= LARGE
        return (_IN_STRIPS if in_strips else _PLAIN) * self.at_least_of_a_tile(pixels)

    def _largest_tile(self, gigabytes: float) -> float:
        """Pixels, for which that much is enough."""
        pixels = gigabytes * 1e9 / (_IN_STRIPS * self.at_least_of_a_tile(1))
        if self._in_strips and self._map(pixels, 0) >= LARGE:
            return pixels
        return pixels * _IN_STRIPS / _PLAIN

    def _is_very_large(self, pixels: float) -> bool:
        return self._in_strips and self._map(pixels, 0) > VERY_LARGE

    @property
    def _in_strips(self) -> bool:
        """Whether large maps are computed in strips of rows (`autoencoder.kernels.strips`)."""
        blocks = isinstance(self.autoencoder, KLAutoencoder | VQAutoencoder)
        return blocks and self.device.type == "cpu" and not any(self.wraps)

    def _map(self, pixels: float, level: int) -> float:
        """Bytes of a map of that level's width."""
        return pixels * self.autoencoder.config.widths[level] * next(self.autoencoder.parameters()).element_size()


def _even(length: int, most: int, overlap: int, wraps: bool) -> int:
    """The size of as few tiles as cover an axis of `length` with at most that many cells each."""
    if length <= most:
        return length
    shared = 0 if wraps else overlap
    count = -(-(length - shared) // (most - overlap))
    return -(-(length - shared) // count) + overlap
