"""The shape of an autoencoder and the recipe of its training loss."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of a `KLAutoencoder`, or of a `VQAutoencoder` where there is a codebook.

    The defaults are Stable Diffusion 1's autoencoder (KL, f = 8, 4 channels).

    Attributes:
        in_channels: channels of the picture, in and out.
        latent_channels: channels of the latent.
        widths: channels of each level, finest first; each level after the first halves height and width.
        blocks_per_level: residual blocks per encoder level (the decoder has one more).
        norm_groups: groups of every group normalisation; divides every width.
        mid_attention: one self-attention in the middle of encoder and decoder.
        attention_levels: levels (0 is the finest) that have self-attention after each of their residual blocks.
        quant_conv: 1x1 convolutions on both sides of the latent (SD 1, 2, XL have them, SD 3 and FLUX do not).
        codebook_size: vectors of the codebook of a VQ autoencoder; 0 is a KL autoencoder.
        codebook_dim: length of those vectors, which is the number of channels that a denoiser sees; 0 takes
            latent_channels.
    """

    in_channels: int = 3
    latent_channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks_per_level: int = 2
    norm_groups: int = 32
    mid_attention: bool = True
    attention_levels: tuple[int, ...] = ()
    quant_conv: bool = True
    codebook_size: int = 0
    codebook_dim: int = 0

    def __post_init__(self) -> None:
        if not self.widths:
            raise ValueError("widths=() is empty; give one width per level, e.g. widths=(32, 64, 128)")
        for width in self.widths:
            if width % self.norm_groups:
                raise ValueError(
                    f"widths={tuple(self.widths)} holds {width}, not a multiple of norm_groups={self.norm_groups}; "
                    f"use a norm_groups that divides every width"
                )
        for level in self.attention_levels:
            if not 0 <= level < len(self.widths):
                raise ValueError(f"attention_levels holds {level}; widths has the levels 0 to {len(self.widths) - 1}")
        if self.codebook_size < 0 or self.codebook_dim < 0:
            raise ValueError(
                f"codebook_size={self.codebook_size} and codebook_dim={self.codebook_dim} must not be negative; "
                "codebook_size=0 is a KL autoencoder"
            )
        if self.codebook_dim and not self.codebook_size:
            raise ValueError(f"codebook_dim={self.codebook_dim} needs a codebook; set codebook_size, e.g. 8192")
        if self.codebook_size and not self.quant_conv:
            raise ValueError(
                f"quant_conv=False and codebook_size={self.codebook_size}; a codebook needs quant_conv=True"
            )

    @property
    def code_channels(self) -> int:
        """Channels between encode and decode: what a denoiser sees."""
        return self.codebook_dim or self.latent_channels

    @property
    def factor(self) -> int:
        """Pixels per latent cell along each axis: 2 ** (levels - 1)."""
        return 2 ** (len(self.widths) - 1)


@dataclass(frozen=True)
class LossConfig:
    """The loss of `AutoencoderObjective`: one weighted sum per picture value, averaged over the batch.

    Attributes:
        l1_weight: weight of the mean absolute error (pictures in [-1, 1]).
        l2_weight: weight of the mean squared error.
        perceptual_weight: weight of the EfficientNet-lite0 feature distance; 0 never loads the network.
        perceptual_fraction: share of each batch that the perceptual loss sees, in (0, 1]; less is faster.
        sharpness_weight: weight of the difference in how much gradients vary within patches, which keeps edges sharp.
        flatness_weight: weight of the gradients where the picture has none, which keeps flat ground flat.
        kl_weight: weight of KL(q(z|x) || N(0, 1)) summed over the latent, per picture value (LDM's 1e-6); not used by
            VQ autoencoders, as the codebook settings are not by KL autoencoders.
        codebook_weight: weight of the distance that draws codes to latents (van den Oord et al. 2017, eq. 3: 1).
        commitment_weight: weight of the same distance drawing latents to codes (their β, 0.25).
        restart_codes: move codes that have not been chosen of late onto random latents of the batch, so that none stays
            dead (Dhariwal et al. 2020, arXiv:2005.00341, section 3.1).
        code_memory: half-life in samples of the counts that usage, perplexity and restarts rest on.
        equivariance_fraction: share of the samples, in [0, 1], whose latent is averaged over 2 x 2 cells before it is
            decoded and whose target is the picture averaged over 2 x 2 pixels, so that latents scale as pictures do
            (scale equivariance of EQ-VAE, Kouzelis et al. 2025, arXiv:2502.09509).
        latent_noise: largest deviation of noise that the decoder sees on a latent, as a share of the latent's own; each
            sample has an evenly drawn part of it. Denoisers leave such noise behind.
        learn_logvar: learn the logarithm s of the reconstruction's variance along: the reconstruction loss becomes
            loss / exp(s) + s (Rombach et al. 2022's code; there it was never given to the optimizer).
        discriminator_weight: weight of the adversarial term after adaptive balancing; 0 makes no discriminator.
        discriminator_start: samples seen before the discriminator and the adversarial term begin.
        discriminator_width: channels after the discriminator's first convolution.
        discriminator_levels: strided convolutions of the discriminator (3: patches of 70 x 70 pixels).
    """

    l1_weight: float = 1.0
    l2_weight: float = 0.0
    perceptual_weight: float = 0.1
    perceptual_fraction: float = 1.0
    sharpness_weight: float = 0.0
    flatness_weight: float = 0.0
    kl_weight: float = 1e-6
    codebook_weight: float = 1.0
    commitment_weight: float = 0.25
    restart_codes: bool = False
    code_memory: float = 4096.0
    equivariance_fraction: float = 0.0
    latent_noise: float = 0.0
    learn_logvar: bool = False
    discriminator_weight: float = 0.0
    discriminator_start: int = 0
    discriminator_width: int = 64
    discriminator_levels: int = 3

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name.endswith("_weight") and getattr(self, field.name) < 0:
                raise ValueError(f"{field.name}={getattr(self, field.name)} is negative; use 0 to switch the term off")
        if self.code_memory <= 0:
            raise ValueError(f"code_memory={self.code_memory} is a half-life in samples; use a number above 0")
        if self.l1_weight == self.l2_weight == 0:
            raise ValueError("l1_weight=0 and l2_weight=0 leave no pixel loss; set one of them above 0")
        if not 0 < self.perceptual_fraction <= 1:
            raise ValueError(
                f"perceptual_fraction={self.perceptual_fraction} is not in (0, 1]; use perceptual_weight=0 for none"
            )
        if not 0 <= self.equivariance_fraction <= 1:
            raise ValueError(
                f"equivariance_fraction={self.equivariance_fraction} is a share of the samples; use 0 to 1"
            )
        if self.latent_noise < 0:
            raise ValueError(f"latent_noise={self.latent_noise} is negative; use 0 for none")
