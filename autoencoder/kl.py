"""The KL-regularised autoencoder of latent diffusion (Rombach et al. 2022, arXiv:2112.10752, section 3.1)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoencoder.blocks import NORM_EPS, DownBlock, MidBlock, UpBlock
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


class Encoder(nn.Module):
    """Picture (B, 3, H, W) -> moments (B, 2 C, H / f, W / f)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.widths, config.norm_groups
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownBlock(widths[max(i - 1, 0)], width, config.blocks_per_level, groups, down=i < len(widths) - 1)
            for i, width in enumerate(widths)
        )
        self.mid_block = MidBlock(widths[-1], groups, config.mid_attention)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 3, H, W) -> (B, 2 C, H / f, W / f)."""
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Latent (B, C, h, w) -> picture (B, 3, h f, w f)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.widths[::-1], config.norm_groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], groups, config.mid_attention)
        self.up_blocks = nn.ModuleList(
            UpBlock(widths[max(i - 1, 0)], width, config.blocks_per_level + 1, groups, up=i < len(widths) - 1)
            for i, width in enumerate(widths)
        )
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.in_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """z: (B, C, h, w) -> (B, 3, h f, w f)."""
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class KLAutoencoder(nn.Module):
    """Pictures in [-1, 1] to a `Gaussian` over latents and back. Parameter names are diffusers' AutoencoderKL's."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1) if config.quant_conv else None
        self.post_quant_conv = nn.Conv2d(channels, channels, 1) if config.quant_conv else None

    def encode(self, x: Tensor) -> Gaussian:
        """x: (B, 3, H, W) in [-1, 1] -> Gaussian over (B, C, H / f, W / f).

        Raises:
            ValueError: height or width is not a multiple of the downsampling factor f.
        """
        for name, size in zip(("height", "width"), x.shape[-2:], strict=True):
            if factor_rest := size % self.config.factor:
                lower = size - factor_rest
                nearest = f"{lower} or {lower + self.config.factor}" if lower else f"{self.config.factor}"
                raise ValueError(f"{name}={size} is not a multiple of {self.config.factor}; use {nearest}")
        moments = self.encoder(x)
        return Gaussian.from_moments(moments if self.quant_conv is None else self.quant_conv(moments))

    def decode(self, z: Tensor) -> Tensor:
        """z: (B, C, h, w) -> picture (B, 3, h f, w f), about [-1, 1], not clamped."""
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))

    def forward(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Gaussian]:
        """Reconstruct x (B, 3, H, W) through a posterior sample, or through its mean without noise (B, C, h, w)."""
        posterior = self.encode(x)
        return self.decode(posterior.mean if noise is None else posterior.sample(noise)), posterior
