"""Wavelet shrinkage: undecimated Haar, thresholds by BayesShrink (Chang et al. 2000), opponent colours."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.evaluation.restoration.bm3d import from_opponent, to_opponent

_LEVELS = 4


def wavelet(picture: Tensor, sd: float, strength: float = 1.0) -> Tensor:
    """picture (3, H, W) with noise of deviation `sd` -> without.

    Every band of every scale is soft-thresholded at strength sd² / (deviation of the picture's own part of the band).
    Shifts make no difference, as nothing is decimated.
    """
    height, width = picture.shape[1:]
    margin = 2**_LEVELS
    low = to_opponent(F.pad(picture[None], (margin,) * 4, mode="replicate")[0])
    bands: list[tuple[Tensor, Tensor, Tensor]] = []
    for level in range(_LEVELS):
        step = 2**level
        low_x, high_x = _split(low, step, -1)
        low, vertical = _split(low_x, step, -2)
        horizontal, diagonal = _split(high_x, step, -2)
        noise = sd / 2 ** (level + 1)
        shrunk = [_shrink(band, noise, strength) for band in (vertical, horizontal, diagonal)]
        bands.append((shrunk[0], shrunk[1], shrunk[2]))
    for level in reversed(range(_LEVELS)):
        vertical, horizontal, diagonal = bands[level]
        step = 2**level
        low = _join(_join(low, vertical, step, -2), _join(horizontal, diagonal, step, -2), step, -1)
    return from_opponent(low)[:, margin : margin + height, margin : margin + width]


def _split(x: Tensor, step: int, axis: int) -> tuple[Tensor, Tensor]:
    """Half sums and half differences with the neighbour `step` further on, around the edge."""
    other = x.roll(-step, axis)
    return (x + other) / 2, (x - other) / 2


def _join(low: Tensor, high: Tensor, step: int, axis: int) -> Tensor:
    """The inverse of `_split`: the mean of the two pairs in which each pixel was."""
    return (low + high + (low - high).roll(step, axis)) / 2


def _shrink(band: Tensor, noise: float, strength: float) -> Tensor:
    own = (band.square().mean((1, 2), keepdim=True) - noise**2).clamp(min=1e-12).sqrt()
    threshold = strength * noise**2 / own
    return torch.sign(band) * (band.abs() - threshold).clamp(min=0)
