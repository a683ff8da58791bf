"""The KL-regularised autoencoder of latent diffusion (Rombach et al. 2022, arXiv:2112.10752, section 3.1)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoencoder.coders import Decoder, Encoder
from autoencoder.config import AutoencoderConfig


@dataclass(frozen=True)
class Gaussian:
    """Diagonal normal distribution over latents, both fields (B, C, h, w)."""

    mean: Tensor
    logvar: Tensor

    @classmethod
    def from_moments(cls, moments: Tensor) -> "Gaussian":
        """moments: (B, 2 C, h, w), the mean's channels first; made fp32, logvar clamped to [-30, 20]."""
        mean, logvar = moments.float().chunk(2, dim=1)
        return cls(mean, logvar.clamp(-30.0, 20.0))

    @classmethod
    def point(cls, mean: Tensor) -> "Gaussian":
        """All probability at mean (B, C, h, w): std 0, so every sample is the mean; made fp32."""
        return cls(mean.float(), torch.full_like(mean, -torch.inf, dtype=torch.float32))

    @property
    def std(self) -> Tensor:
        """Standard deviation (B, C, h, w)."""
        return torch.exp(0.5 * self.logvar)

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std * noise for standard normal noise (B, C, h, w) (Kingma and Welling 2014, eq. 10)."""
        return self.mean + self.std * noise

    def kl(self) -> Tensor:
        """KL divergence to N(0, 1) in nats, summed over each latent: (B,) (Kingma and Welling 2014, appendix B)."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar).flatten(1).sum(1)


class KLAutoencoder(nn.Module):
    """Pictures in [-1, 1] to a `Gaussian` over latents and back. Parameter names are diffusers' AutoencoderKL's."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        if config.codebook_size:
            raise ValueError(
                f"codebook_size={config.codebook_size} belongs to a VQAutoencoder; use 0 for a KLAutoencoder"
            )
        self.config = config
        channels = config.latent_channels
        self.encoder = Encoder(config, 2 * channels)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1) if config.quant_conv else None
        self.post_quant_conv = nn.Conv2d(channels, channels, 1) if config.quant_conv else None

    @property
    def repeated_blocks(self) -> list[nn.Module]:
        """Residual blocks and attentions: the units of checkpointing, compilation and sharding."""
        return [*self.encoder.repeated_blocks, *self.decoder.repeated_blocks]

    def encode(self, x: Tensor) -> Gaussian:
        """x: (B, 3, H, W) in [-1, 1] -> Gaussian over (B, C, H / f, W / f).

        Raises:
            ValueError: height or width is not a multiple of the downsampling factor f.
        """
        return self.posterior(self.encoder(x))

    def posterior(self, encoded: Tensor) -> Gaussian:
        """What the encoder gives (B, 2 C, h, w) -> Gaussian over (B, C, h, w)."""
        return Gaussian.from_moments(encoded if self.quant_conv is None else self.quant_conv(encoded))

    def decode(self, z: Tensor) -> Tensor:
        """z: (B, C, h, w) -> picture (B, 3, h f, w f), about [-1, 1], not clamped."""
        return self.decoder(self.decoder_input(z))

    def decoder_input(self, z: Tensor) -> Tensor:
        """z: (B, C, h, w) -> what the decoder is given, (B, C, h, w)."""
        return z if self.post_quant_conv is None else self.post_quant_conv(z)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Gaussian]:
        """Reconstruct x (B, 3, H, W) through a posterior sample, or through its mean without noise (B, C, h, w)."""
        posterior = self.encode(x)
        return self.decode(posterior.mean if noise is None else posterior.sample(noise)), posterior
