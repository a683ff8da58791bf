"""The shape of an upscaler."""

from dataclasses import dataclass


@dataclass(frozen=True)
class UpscalerConfig:
    """Shape of an `Upscaler`.

    Attributes:
        width: channels at the low resolution; halved at every doubling of height and width but the last.
        blocks: residual blocks at the low resolution, two 3x3 convolutions each.
        factor: output pixels per input pixel along each axis, a power of two.
    """

    width: int = 64
    blocks: int = 8
    factor: int = 4

    def __post_init__(self) -> None:
        if self.factor < 2 or self.factor & (self.factor - 1):
            raise ValueError(f"factor={self.factor} is not a power of two above 1; use 2 or 4")
        if self.blocks < 0:
            raise ValueError(f"blocks={self.blocks} is negative; use 0 or more")
        if self.width < 1 or self.width % (self.factor // 2):
            raise ValueError(f"width={self.width} is not a positive multiple of factor / 2 = {self.factor // 2}")

    @property
    def doublings(self) -> int:
        """How often height and width are doubled: log2(factor)."""
        return self.factor.bit_length() - 1
