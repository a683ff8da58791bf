"""The kinds of operators: all of a picture, a part of its pixels, its block means, a blur of it, its grey."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ldm.operators.operator import Operator

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601, as Pillow turns colours into grey."""
_REACH = 3.0
"""Standard deviations of a Gaussian kernel, as of `ldm.degradation`."""


@dataclass(frozen=True)
class Identity(Operator):
    """All of the picture: what is left to do is to take the noise away."""

    @property
    def gram(self) -> float:
        """Its rows are pixels."""
        return 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """x itself."""
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """y itself."""
        return y


@dataclass(frozen=True)
class Crop(Operator):
    """The upper left part of a picture, as `frame` leaves it.

    Attributes:
        size: height and width of the part.
        whole: of the picture.
    """

    size: tuple[int, int]
    whole: tuple[int, int]

    @property
    def gram(self) -> float:
        """Its rows are pixels."""
        return 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, *whole) -> (B, C, *size)."""
        return x[..., : self.size[0], : self.size[1]]

    def adjoint(self, y: Tensor) -> Tensor:
        """With zeros around it."""
        return F.pad(y, (0, self.whole[1] - self.size[1], 0, self.whole[0] - self.size[0]))


@dataclass(frozen=True, eq=False)
class Mask(Operator):
    """Some pixels; the others are zero.

    Attributes:
        known: (H, W), true where a pixel is seen.
    """

    known: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same with zeros."""
        if x.shape[-2:] != self.known.shape:
            height, width = self.known.shape
            raise ValueError(
                f"the mask has {width} x {height} pixels, and what it covers {x.shape[-1]} x {x.shape[-2]}; "
                "use a mask of that size"
            )
        return x * self.known.to(x.device)

    def adjoint(self, y: Tensor) -> Tensor:
        """Its own: a projection."""
        return self(y)

    def solve(self, y: Tensor, r2: float, s2: float) -> Tensor:
        """Pixel by pixel."""
        return self(y) / (s2 + r2)


@dataclass(frozen=True)
class AreaDown(Operator):
    """The means of whole blocks.

    Attributes:
        factor: edge of a block.
    """

    factor: int

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / factor, W / factor)."""
        height, width = x.shape[-2:]
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"area-down={self.factor} does not fit a picture of {width} x {height} px; "
                f"its sides must be multiples of {self.factor}"
            )
        return F.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        """Each value spread over its block."""
        return y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1) / self.factor**2

    @property
    def gram(self) -> float:
        """Blocks do not overlap."""
        return 1 / self.factor**2


@dataclass(frozen=True)
class Blur(Operator):
    """A Gaussian blur of a picture that goes on as its mirror image; its own adjoint, diagonal in cosines.

    Inside it is the blur of `ldm degrade`, which repeats the edge's pixels instead.

    Attributes:
        sigma: standard deviation in pixels.
    """

    sigma: float

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same size."""
        return unmirrored(self.periodic(mirrored(x)))

    def adjoint(self, y: Tensor) -> Tensor:
        """The same blur."""
        return self(y)

    def periodic(self, x: Tensor) -> Tensor:
        """The blur of a picture that repeats itself."""
        height, width = x.shape[-2:]
        rows, columns = (_response(self.sigma, edge, x.dtype).to(x.device) for edge in (height, width))
        return filtered(x, rows[:, None] * columns[: width // 2 + 1])

    def solve(self, y: Tensor, r2: float, s2: float) -> Tensor:
        """In cosines."""
        return solve_mirrored((self,), y, r2, s2)


@dataclass(frozen=True)
class Grey(Operator):
    """The luma of three colours."""

    @property
    def gram(self) -> float:
        """The square of the weights."""
        return sum(weight**2 for weight in LUMA)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1, H, W)."""
        return (x * self._weights(x)).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, 3, H, W)."""
        return y * self._weights(y)

    def _weights(self, like: Tensor) -> Tensor:
        return torch.tensor(LUMA, dtype=like.dtype, device=like.device).view(3, 1, 1)


def mirrored(x: Tensor) -> Tensor:
    """(..., H, W) -> (..., 2 H, 2 W), with its mirror images on the right and below."""
    x = torch.cat([x, x.flip(-1)], -1)
    return torch.cat([x, x.flip(-2)], -2)


def unmirrored(x: Tensor) -> Tensor:
    """The inverse of `mirrored`."""
    return x[..., : x.shape[-2] // 2, : x.shape[-1] // 2]


def filtered(x: Tensor, spectrum: Tensor) -> Tensor:
    """x (..., H, W), which repeats itself, times a spectrum (H, W // 2 + 1)."""
    return torch.fft.irfft2(torch.fft.rfft2(x) * spectrum, s=x.shape[-2:])


def solve_mirrored(chain: tuple[Blur | AreaDown, ...], y: Tensor, r2: float, s2: float) -> Tensor:
    """`Operator.solve` of blurs and block means, the first applied first: in cosines A At is diagonal."""
    rows, columns = (_gram_line(chain, edge, y.dtype).to(y.device) for edge in y.shape[-2:])
    gram = rows[:, None] * columns[: y.shape[-1] + 1]
    if s2 == 0:  # what hardly passes cannot be brought back
        least = torch.finfo(y.dtype).eps ** 0.75 * gram.max()
        inverse = torch.where(gram > least, 1 / (r2 * gram), 0.0)
    else:
        inverse = 1 / (s2 + r2 * gram)
    return unmirrored(filtered(mirrored(y), inverse))


@lru_cache(maxsize=16)
def _gram_line(chain: tuple[Blur | AreaDown, ...], edge: int, dtype: torch.dtype) -> Tensor:
    """The spectrum (2 edge,) of A At along a mirrored line of `edge` cells that are seen.

    A frequency passes with its power; block means fold those that they cannot tell apart onto one (Zhao et al. 2016,
    "Fast Single Image Super-Resolution").
    """
    length = 2 * edge * math.prod(operator.factor for operator in chain)
    places, power = torch.arange(length), torch.ones(length, dtype=torch.float64)
    for operator in chain:
        if isinstance(operator, Blur):
            passed = _response(operator.sigma, length, torch.float64)
        else:
            line = torch.zeros(length, dtype=torch.float64)
            line[: operator.factor] = 1 / operator.factor
            passed = torch.fft.fft(line).abs()
        power = power * passed[places % length] ** 2
        length //= operator.factor
    return _even(power.view(-1, length).mean(0)).to(dtype)


@lru_cache(maxsize=16)
def _response(sigma: float, edge: int, dtype: torch.dtype) -> Tensor:
    """A Gaussian's response (edge,) to the frequencies of a line that repeats itself; real, for the kernel is even."""
    reach = math.ceil(_REACH * sigma)
    places = torch.arange(-reach, reach + 1)
    weights = torch.exp(-((places.double() / sigma) ** 2) / 2)
    line = torch.zeros(edge, dtype=torch.float64).index_add_(0, places % edge, weights / weights.sum())
    return _even(torch.fft.fft(line).real).to(dtype)


def _even(spectrum: Tensor) -> Tensor:
    """Equal at a frequency and its opposite to the bit, so that mirror images stay mirror images."""
    return (spectrum + spectrum.flip(0).roll(1)) / 2
