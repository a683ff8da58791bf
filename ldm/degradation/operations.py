"""Operations that spoil a picture, each read from a text such as `gaussian=25` and written back to it."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ldm.degradation.levels import check, number, whole
from ldm.degradation.noises import Gaussian, Poisson, SaltAndPepper, Speckle
from ldm.naming import look_up

_LARGEST_BLUR = 50.0
_LARGEST_FACTOR = 16
_REACH = 3.0  # standard deviations of a Gaussian kernel
_WAYS = ("area", "bicubic")
OperationT = TypeVar("OperationT")


class Operation(Protocol):
    """One way to spoil a picture.

    Attributes:
        name: of the kind, as in texts.
        spatial: whether pixels are mixed with their neighbours, which need their alpha as weight.
    """

    name: ClassVar[str]
    spatial: ClassVar[bool]

    @classmethod
    def parse(cls, level: str) -> Self:
        """The operation of the text behind `name=`, empty where there is none."""
        ...

    def apply(self, picture: Tensor, generator: Generator) -> Tensor:
        """picture (C, H, W), 1 is white -> the spoilt one, not clipped; random numbers come from a CPU generator."""
        ...


@dataclass(frozen=True)
class Blur:
    """A Gaussian blur, its edges continued by their own pixels.

    Attributes:
        sigma: standard deviation in pixels, along the first axis if there are two.
        other: along the axis across; None for the same.
        angle: of the first axis in degrees, from the horizontal upwards.
    """

    sigma: float
    other: float | None = None
    angle: float = 0.0
    name: ClassVar[str] = "blur"
    spatial: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for sigma in (self.sigma, self.sigma if self.other is None else self.other):
            check(self.name, sigma, 0 < sigma <= _LARGEST_BLUR, f"pixels above 0, at most {_LARGEST_BLUR:g}")

    @classmethod
    def parse(cls, level: str) -> Self:
        """`2`, `3x1`, or `3x1@30`: standard deviations in pixels and an angle in degrees."""
        sigmas, _, angle = level.partition("@")
        first, _, other = sigmas.partition("x")
        form = "2, 3x1 or 3x1@30"
        return cls(
            number(cls.name, first, form),
            number(cls.name, other, form) if other else None,
            number(cls.name, angle, form) if angle else 0.0,
        )

    def __str__(self) -> str:
        other = "" if self.other is None else f"x{self.other:g}"
        return f"{self.name}={self.sigma:g}{other}" + (f"@{self.angle:g}" if self.angle else "")

    def kernel(self) -> Tensor:
        """The weights (K, K), fp32, of sum 1."""
        other = self.sigma if self.other is None else self.other
        reach = math.ceil(_REACH * max(self.sigma, other))
        y, x = torch.meshgrid(*(torch.arange(-reach, reach + 1, dtype=torch.float64),) * 2, indexing="ij")
        turn = math.radians(self.angle)
        along = x * math.cos(turn) - y * math.sin(turn)
        across = x * math.sin(turn) + y * math.cos(turn)
        weights = torch.exp(-((along / self.sigma) ** 2 + (across / other) ** 2) / 2)
        return (weights / weights.sum()).float()

    def apply(self, picture: Tensor, generator: Generator) -> Tensor:
        """See `Operation`."""
        kernel = self.kernel()
        reach = len(kernel) // 2
        padded = F.pad(picture[:, None], (reach,) * 4, mode="replicate")
        if self.other is None or self.other == self.sigma:
            line = kernel.sum(0)
            return F.conv2d(F.conv2d(padded, line.view(1, 1, 1, -1)), line.view(1, 1, -1, 1))[:, 0]
        return F.conv2d(padded, kernel[None, None])[:, 0]


@dataclass(frozen=True)
class Down:
    """Another, smaller size.

    Attributes:
        factor: how many times smaller.
        way: area, the means of whole blocks, or bicubic, antialiased.
    """

    factor: int
    way: str = "area"
    name: ClassVar[str] = "down"
    spatial: ClassVar[bool] = True

    def __post_init__(self) -> None:
        allowed = 2 <= self.factor <= _LARGEST_FACTOR
        check(self.name, self.factor, allowed, f"a whole factor from 2 to {_LARGEST_FACTOR}")
        look_up("way of --down", self.way, dict.fromkeys(_WAYS))

    @classmethod
    def parse(cls, level: str) -> Self:
        """`4`, `4:area` or `4:bicubic`."""
        factor, _, way = level.partition(":")
        return cls(whole(cls.name, factor, "4 or 4:bicubic"), way or "area")

    def __str__(self) -> str:
        return f"{self.name}={self.factor}" + ("" if self.way == "area" else f":{self.way}")

    def apply(self, picture: Tensor, generator: Generator) -> Tensor:
        """See `Operation`.

        Raises:
            ValueError: the size has no such part.
        """
        height, width = picture.shape[1:]
        if self.way == "area":
            if height % self.factor or width % self.factor:
                raise ValueError(
                    f"{self} does not fit a picture of {width} x {height} px, whose sides are no multiples of "
                    f"{self.factor}; crop it, or use {self.name}={self.factor}:bicubic"
                )
            return F.avg_pool2d(picture[None], self.factor)[0]
        if min(height, width) < self.factor:
            raise ValueError(f"{self} does not fit a picture of {width} x {height} px; use a larger picture")
        return resized(picture, round(height / self.factor), round(width / self.factor))


@dataclass(frozen=True)
class Up:
    """Another, larger size, bicubic.

    Attributes:
        factor: how many times larger.
    """

    factor: int
    name: ClassVar[str] = "up"
    spatial: ClassVar[bool] = True

    def __post_init__(self) -> None:
        allowed = 2 <= self.factor <= _LARGEST_FACTOR
        check(self.name, self.factor, allowed, f"a whole factor from 2 to {_LARGEST_FACTOR}")

    @classmethod
    def parse(cls, level: str) -> Self:
        """`4`."""
        return cls(whole(cls.name, level, "4"))

    def __str__(self) -> str:
        return f"{self.name}={self.factor}"

    def apply(self, picture: Tensor, generator: Generator) -> Tensor:
        """See `Operation`."""
        return resized(picture, picture.shape[1] * self.factor, picture.shape[2] * self.factor)


@dataclass(frozen=True)
class Jpeg:
    """Written as a JPEG and read again; it clips and rounds before.

    Attributes:
        quality: as libjpeg counts it.
    """

    quality: int
    name: ClassVar[str] = "jpeg"
    spatial: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self.name, self.quality, 1 <= self.quality <= 100, "a whole quality from 1 to 100")

    @classmethod
    def parse(cls, level: str) -> Self:
        """`30`."""
        return cls(whole(cls.name, level, "30"))

    def __str__(self) -> str:
        return f"{self.name}={self.quality}"

    def apply(self, picture: Tensor, generator: Generator) -> Tensor:
        """See `Operation`."""
        from PIL import Image

        pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        encoded = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(encoded, "JPEG", quality=self.quality)
        decoded = torch.from_numpy(np.array(Image.open(encoded))).view(pixels.shape)
        return decoded.permute(2, 0, 1).to(picture.dtype) / 255


@dataclass(frozen=True)
class Clip:
    """Numbers below 0 become 0, those above 1 become 1."""

    name: ClassVar[str] = "clip"
    spatial: ClassVar[bool] = False

    @classmethod
    def parse(cls, level: str) -> Self:
        """Nothing."""
        return _without_level(cls, level)

    def __str__(self) -> str:
        return self.name

    def apply(self, picture: Tensor, generator: Generator) -> Tensor:
        """See `Operation`."""
        return picture.clamp(0, 1)


@dataclass(frozen=True)
class Round:
    """To the nearest of the 256 numbers of 8 bits; others beyond 0 and 1 stay beyond."""

    name: ClassVar[str] = "round"
    spatial: ClassVar[bool] = False

    @classmethod
    def parse(cls, level: str) -> Self:
        """Nothing."""
        return _without_level(cls, level)

    def __str__(self) -> str:
        return self.name

    def apply(self, picture: Tensor, generator: Generator) -> Tensor:
        """See `Operation`."""
        return (picture * 255).round() / 255


KINDS: dict[str, type[Operation]] = {
    kind.name: kind for kind in (Blur, Down, Up, Gaussian, SaltAndPepper, Speckle, Poisson, Jpeg, Clip, Round)
}
NOISES = (Gaussian.name, SaltAndPepper.name, Speckle.name, Poisson.name)


def parse_operation(text: str) -> Operation:
    """The operation that a text such as `gaussian=25`, `blur=3x1@30` or `clip` says.

    Raises:
        ValueError: an unknown kind, of which it names the nearest, or a level that is out of range.
    """
    name, _, level = text.strip().partition("=")
    return look_up("degradation", name.strip().replace("-", "_"), KINDS).parse(level.strip())


def resized(picture: Tensor, height: int, width: int) -> Tensor:
    """picture (C, H, W) -> (C, height, width), bicubic, antialiased where it becomes smaller."""
    return F.interpolate(picture[None], (max(1, height), max(1, width)), mode="bicubic", antialias=True)[0]


def _without_level(kind: Callable[[], OperationT], level: str) -> OperationT:
    if level:
        raise ValueError(f"{kind()}={level}: {kind()} has no level; write {kind()}")
    return kind()
