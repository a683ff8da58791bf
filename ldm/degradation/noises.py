"""Kinds of noise, each with its stated mean and variance; see `Operation` of `ldm.degradation.operations`."""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Generator, Tensor

from ldm.degradation.levels import check, number


@dataclass(frozen=True)
class Gaussian:
    """Normal noise that is added.

    Attributes:
        sd: standard deviation, of 255.
    """

    sd: float
    name: ClassVar[str] = "gaussian"
    spatial: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self.name, self.sd, 0 <= self.sd <= 255, "a standard deviation from 0 to 255")

    @classmethod
    def parse(cls, level: str) -> Self:
        """`25`."""
        return cls(number(cls.name, level, "25"))

    def __str__(self) -> str:
        return f"{self.name}={self.sd:g}"

    def apply(self, picture: Tensor, generator: Generator) -> Tensor:
        """See `Operation`."""
        return picture + self.sd / 255 * torch.randn(picture.shape, generator=generator)


@dataclass(frozen=True)
class SaltAndPepper:
    """Pixels that became white or black, each in half of the cases, in all channels at once.

    Attributes:
        share: of all pixels.
    """

    share: float
    name: ClassVar[str] = "salt_and_pepper"
    spatial: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self.name, self.share, 0 <= self.share <= 1, "a share from 0 to 1")

    @classmethod
    def parse(cls, level: str) -> Self:
        """`0.05`, or `5%`."""
        per_cent = level.endswith("%")
        return cls(number(cls.name, level.removesuffix("%"), "0.05 or 5%") / (100 if per_cent else 1))

    def __str__(self) -> str:
        return f"{self.name}={self.share:g}"

    def apply(self, picture: Tensor, generator: Generator) -> Tensor:
        """See `Operation`."""
        chance = torch.rand((1, *picture.shape[1:]), generator=generator, dtype=torch.float64)
        struck = torch.where(chance < self.share / 2, 0.0, 1.0)
        return torch.where(chance < self.share, struck.to(picture.dtype), picture)


@dataclass(frozen=True)
class Speckle:
    """Normal noise by which the picture is multiplied, around 1.

    Attributes:
        sd: its standard deviation.
    """

    sd: float
    name: ClassVar[str] = "speckle"
    spatial: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self.name, self.sd, 0 <= self.sd <= 2, "a standard deviation from 0 to 2")

    @classmethod
    def parse(cls, level: str) -> Self:
        """`0.2`."""
        return cls(number(cls.name, level, "0.2"))

    def __str__(self) -> str:
        return f"{self.name}={self.sd:g}"

    def apply(self, picture: Tensor, generator: Generator) -> Tensor:
        """See `Operation`."""
        return picture * (1 + self.sd * torch.randn(picture.shape, generator=generator))


@dataclass(frozen=True)
class Poisson:
    """The noise of counting light.

    Attributes:
        peak: how many quanta white has on average; the fewer, the noisier.
    """

    peak: float
    name: ClassVar[str] = "poisson"
    spatial: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self.name, self.peak, 0 < self.peak <= 1e6, "a number of quanta above 0, at most 1000000")

    @classmethod
    def parse(cls, level: str) -> Self:
        """`30`."""
        return cls(number(cls.name, level, "30"))

    def __str__(self) -> str:
        return f"{self.name}={self.peak:g}"

    def apply(self, picture: Tensor, generator: Generator) -> Tensor:
        """See `Operation`."""
        return torch.poisson(picture.clamp(min=0) * self.peak, generator=generator) / self.peak
