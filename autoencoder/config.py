"""The shape of a KL autoencoder and the recipe of its training loss."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of a `KLAutoencoder`. The defaults are Stable Diffusion 1's autoencoder (f = 8, 4 channels).

    Attributes:
        in_channels: channels of the picture, in and out.
        latent_channels: channels of the latent.
        widths: channels of each level, finest first; each level after the first halves height and width.
        blocks_per_level: residual blocks per encoder level (the decoder has one more).
        norm_groups: groups of every group normalisation; divides every width.
        mid_attention: one self-attention at the coarsest level of encoder and decoder.
        quant_conv: 1x1 convolutions on both sides of the latent (SD 1, 2, XL have them, SD 3 and FLUX do not).
    """

    in_channels: int = 3
    latent_channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks_per_level: int = 2
    norm_groups: int = 32
    mid_attention: bool = True
    quant_conv: bool = True

    def __post_init__(self) -> None:
        if not self.widths:
            raise ValueError("widths=() is empty; give one width per level, e.g. widths=(32, 64, 128)")
        for width in self.widths:
            if width % self.norm_groups:
                raise ValueError(
                    f"widths={tuple(self.widths)} holds {width}, not a multiple of norm_groups={self.norm_groups}; "
                    f"use a norm_groups that divides every width"
                )

    @property
    def factor(self) -> int:
        """Pixels per latent cell along each axis: 2 ** (levels - 1)."""
        return 2 ** (len(self.widths) - 1)


@dataclass(frozen=True)
class LossConfig:
    """What `AutoencoderObjective` minimises: one weighted sum per picture value, averaged over the batch.

    Attributes:
        l1_weight: weight of the mean absolute error (pictures in [-1, 1]).
        l2_weight: weight of the mean squared error.
        perceptual_weight: weight of the EfficientNet-lite0 feature distance; 0 never loads the network.
        perceptual_fraction: share of each batch that the perceptual loss sees, in (0, 1]; less is faster.
        kl_weight: weight of KL(q(z|x) || N(0, 1)) summed over the latent, per picture value (LDM's 1e-6).
        discriminator_weight: weight of the adversarial term after adaptive balancing; 0 makes no discriminator.
        discriminator_start: samples seen before the discriminator and the adversarial term begin.
        discriminator_width: channels after the discriminator's first convolution.
        discriminator_levels: strided convolutions of the discriminator (3: patches of 70 x 70 pixels).
    """

    l1_weight: float = 1.0
    l2_weight: float = 0.0
    perceptual_weight: float = 0.1
    perceptual_fraction: float = 1.0
    kl_weight: float = 1e-6
    discriminator_weight: float = 0.0
    discriminator_start: int = 0
    discriminator_width: int = 64
    discriminator_levels: int = 3

    def __post_init__(self) -> None:
        for name in ("l1_weight", "l2_weight", "perceptual_weight", "kl_weight", "discriminator_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is negative; use 0 to switch the term off")
        if self.l1_weight == self.l2_weight == 0:
            raise ValueError("l1_weight=0 and l2_weight=0 leave no pixel loss; set one of them above 0")
        if not 0 < self.perceptual_fraction <= 1:
            raise ValueError(
                f"perceptual_fraction={self.perceptual_fraction} is not in (0, 1]; use perceptual_weight=0 for none"
            )
