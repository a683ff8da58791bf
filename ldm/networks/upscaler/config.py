"""The shape of an upscaler and the recipe of its training loss."""

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


@dataclass(frozen=True)
class UpscalerLossConfig:
    """The loss of `UpscalerObjective`: one weighted sum, averaged over the batch.

    Attributes:
        l1_weight: weight of the mean absolute error (pictures in [-1, 1]).
        perceptual_weight: weight of the EfficientNet-lite0 feature distance; 0 never loads the network. At 0.003
            its gradient is about as long as that of the mean absolute error.
        perceptual_fraction: share of each batch that the perceptual loss sees, in (0, 1]; less is faster.
        discriminator_weight: weight of the adversarial term after adaptive balancing; 0 makes no discriminator.
        discriminator_start: samples seen before the discriminator and the adversarial term begin.
        discriminator_width: channels after the discriminator's first convolution.
        discriminator_levels: strided convolutions of the discriminator.
        blurred_fraction: share of the samples whose input is blurred, as generated pictures are now and then.
        blur: largest standard deviation of that blur, in input pixels.
    """

    l1_weight: float = 1.0
    perceptual_weight: float = 0.003
    perceptual_fraction: float = 1.0
    discriminator_weight: float = 0.0
    discriminator_start: int = 0
    discriminator_width: int = 32
    discriminator_levels: int = 3
    blurred_fraction: float = 0.0
    blur: float = 0.6

    def __post_init__(self) -> None:
        for name in ("perceptual_weight", "discriminator_weight", "blur"):
            if getattr(self, name) < 0:
                raise ValueError(f"loss.{name}={getattr(self, name)} is negative; use 0 to switch it off")
        if self.l1_weight <= 0:
            raise ValueError(f"loss.l1_weight={self.l1_weight} must be above 0: nothing else holds the colours")
        if not 0 < self.perceptual_fraction <= 1:
            raise ValueError(
                f"loss.perceptual_fraction={self.perceptual_fraction} is not in (0, 1]; "
                "use perceptual_weight=0 for none"
            )
        if not 0 <= self.blurred_fraction <= 1:
            raise ValueError(f"loss.blurred_fraction={self.blurred_fraction} is a share: use 0 to 1")
