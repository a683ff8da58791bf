"""What noise does to numbers: how strong it is, transforms that make it even, and the bias that clipping leaves."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_TABLE = 2001
_MAD = 0.6745  # median of the absolute value of a standard normal
_WINDOW = 7
_FEW = 0.02
Denoise = Callable[[Tensor, float], Tensor]
"""A filter of a picture (3, H, W) and the deviation of its noise."""


def debias(picture: Tensor, sd: Callable[[Tensor], Tensor]) -> Tensor:
    """Means of clipped noisy pixels -> what was there before: the inverse of mu -> E[clip(mu + sd(mu) n)].

    Clipping at white makes noisy white darker, so a filter that finds the exact mean of what it sees is wrong there.

    Args:
        picture: filtered, of any shape.
        sd: the noise's deviation where the picture is mu, of float64.
    """
    mu = torch.linspace(0, 1, _TABLE, dtype=torch.float64)
    deviation = sd(mu).clamp(min=1e-9)
    low, high = -mu / deviation, (1 - mu) / deviation
    seen = mu * (_phi(high) - _phi(low)) + deviation * (_bell(low) - _bell(high)) + 1 - _phi(high)
    seen = seen.cummax(0).values
    value = picture.double().clamp(seen[0], seen[-1])
    above = torch.searchsorted(seen, value.contiguous()).clamp(1, _TABLE - 1)
    share = (value - seen[above - 1]) / (seen[above] - seen[above - 1]).clamp(min=1e-12)
    return (mu[above - 1] + share.clamp(0, 1) * (mu[above] - mu[above - 1])).to(picture.dtype)


def anscombe(picture: Tensor, peak: float, denoise: Denoise) -> Tensor:
    """A filter for even noise on the noise of counting: Anscombe's root, and its unbiased inverse.

    The inverse is the closed form of Makitalo and Foi (2011).

    Args:
        picture: with Poisson noise.
        peak: how many quanta white has.
        denoise: the filter.
    """
    scale = 2 * math.sqrt(peak + 3 / 8)
    root = 2 * (picture.clamp(min=0) * peak + 3 / 8).sqrt() / scale
    d = (denoise(root, 1 / scale) * scale).clamp(min=2 * math.sqrt(3 / 8))
    quanta = d.square() / 4 + math.sqrt(1.5) / 4 / d - 11 / 8 / d.square() + 5 * math.sqrt(1.5) / 8 / d**3 - 1 / 8
    return quanta.clamp(min=0) / peak


def logarithmic(picture: Tensor, sd: float, denoise: Denoise) -> Tensor:
    """A filter for even noise on noise by which the picture is multiplied, of deviation `sd` around 1."""
    floor = 1 / 255
    scale = -math.log(floor)
    logarithm = picture.clamp(floor, 2).log() / scale + 1
    return ((denoise(logarithm, sd / scale) - 1) * scale).exp()


def noise_level(picture: Tensor) -> float:
    """The deviation of Gaussian noise in a picture (C, H, W) of 8 bits in [0, 1], also where it is clipped.

    It is read where next to nothing is clipped, from the finest diagonal details (Donoho and Johnstone 1994). Where
    all is clipped, as on white paper, half of the normal distribution is left, whose mean square from white (or black)
    is half of the variance.
    """
    height, width = picture.shape[1:]
    if min(height, width) < 2:
        return 0.0
    ends = (picture <= 0) | (picture >= 1)
    share = F.avg_pool2d(ends.float()[None], _WINDOW, 1, _WINDOW // 2, count_include_pad=False)[0]
    corners = [picture[:, y : height - 1 + y, x : width - 1 + x] for y in (0, 1) for x in (0, 1)]
    diagonal = (corners[0] - corners[1] - corners[2] + corners[3]) / 2
    free = (share <= _FEW)[:, :-1, :-1]
    if free.float().mean() >= _FEW:
        return float(diagonal[free].abs().median()) / _MAD
    half = (share > 0.3) & (share < 0.7)
    if half.float().mean() < _FEW:
        return 0.0
    nearest_end = torch.where(picture > 0.5, 1 - picture, picture)[half]
    return float((2 * nearest_end.square().mean()).sqrt())


def _phi(x: Tensor) -> Tensor:
    return torch.special.ndtr(x)


def _bell(x: Tensor) -> Tensor:
    return (-x.square() / 2).exp() / math.sqrt(2 * math.pi)
