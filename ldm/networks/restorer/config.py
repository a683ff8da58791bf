"""The shape of a restorer and the recipe of its training loss."""

from dataclasses import dataclass

from ldm.naming import nearest, shown

DISTANCES = ("charbonnier", "psnr")


@dataclass(frozen=True)
class RestorerConfig:
    """Shape of a `Restorer`.

    Attributes:
        widths: channels of each level, from full resolution down; each level halves height and width.
        encoder_blocks: residual blocks of each level but the coarsest, on the way down.
        middle_blocks: of the coarsest level.
        decoder_blocks: of each level but the coarsest, from full resolution down.
        kinds: of damage, which the network can be told and says that it finds; names of `ldm.degradation.known_damage`.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256)
    encoder_blocks: tuple[int, ...] = (1, 1, 2)
    middle_blocks: int = 3
    decoder_blocks: tuple[int, ...] = (1, 1, 2)
    kinds: tuple[str, ...] = ("gaussian", "salt_and_pepper", "speckle", "poisson", "jpeg", "blur", "resize")

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths={list(self.widths)} must be one or more numbers above 0")
        for name in ("encoder_blocks", "decoder_blocks"):
            blocks = getattr(self, name)
            if len(blocks) != len(self.widths) - 1 or min(blocks, default=0) < 0:
                raise ValueError(
                    f"{name}={list(blocks)} must be {len(self.widths) - 1} numbers, one for each level of widths but"
                    " the last, each 0 or more"
                )
        if self.middle_blocks < 0:
            raise ValueError(f"middle_blocks={self.middle_blocks} is negative; use 0 or more")
        if len(set(self.kinds)) < len(self.kinds) or not self.kinds:
            raise ValueError(f"kinds={list(self.kinds)} must be different names, at least one")

    @property
    def stride(self) -> int:
        """Pixels for a cell of the coarsest level along each axis."""
        return int(2 ** (len(self.widths) - 1))


@dataclass(frozen=True)
class RestorerLossConfig:
    """The loss of `RestorerObjective`.

    Attributes:
        distance: "charbonnier", the mean error, which hard crops rule; or "psnr", the mean logarithm of each picture's
            squared error, which is what a mean of decibels measures (NAFNet, Chen et al. 2022, arXiv:2204.04676).
        epsilon: errors well below it count little: it is added, squared, to squared errors. Pictures are in [-1, 1].
        perceptual_weight: weight of the EfficientNet-lite0 feature distance; 0 never loads the network.
        perceptual_fraction: share of each batch that the perceptual loss sees, in (0, 1]; less is faster.
        finding_weight: weight of finding kind and level of the damage.
    """

    distance: str = "charbonnier"
    epsilon: float = 0.004
    perceptual_weight: float = 0.0
    perceptual_fraction: float = 0.25
    finding_weight: float = 0.02

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise ValueError(f"unknown loss.distance {shown(self.distance)}; {nearest(str(self.distance), DISTANCES)}")
        if self.epsilon <= 0:
            raise ValueError(f"loss.epsilon={self.epsilon} must be above 0")
        for name in ("perceptual_weight", "finding_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"loss.{name}={getattr(self, name)} is negative; use 0 to switch it off")
        if not 0 < self.perceptual_fraction <= 1:
            raise ValueError(
                f"loss.perceptual_fraction={self.perceptual_fraction} is not in (0, 1]; "
                "use perceptual_weight=0 for none"
            )
