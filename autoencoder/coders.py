"""Encoder and decoder that the KL and the VQ autoencoder share. Parameter names are diffusers'."""

from collections.abc import Iterator

from torch import Tensor, nn

from autoencoder.blocks import NORM_EPS, DownBlock, MidBlock, UpBlock, convolved
from autoencoder.config import AutoencoderConfig
from autoencoder.kernels import GroupNorm
from autoencoder.large_maps import in_turn


class Encoder(nn.Module):
    """Picture (B, 3, H, W) -> (B, out_channels, H / f, W / f): the moments of a latent, or the latent itself."""

    def __init__(self, config: AutoencoderConfig, out_channels: int) -> None:
        super().__init__()
        widths, groups = config.widths, config.norm_groups
        self.factor = config.factor
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownBlock(
                widths[max(i - 1, 0)],
                width,
                config.blocks_per_level,
                groups,
                attention=i in config.attention_levels,
                down=i < len(widths) - 1,
            )
            for i, width in enumerate(widths)
        )
        self.mid_block = MidBlock(widths[-1], groups, config.mid_attention)
        self.conv_norm_out = GroupNorm(groups, widths[-1], eps=NORM_EPS, silu=True)
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    @property
    def repeated_blocks(self) -> list[nn.Module]:
        """See `KLAutoencoder.repeated_blocks`."""
        return [block for level in (*self.down_blocks, self.mid_block) for block in (*level.resnets, *level.attentions)]

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 3, H, W) in [-1, 1] -> (B, out_channels, H / f, W / f).

        Raises:
            ValueError: height or width is not a multiple of the downsampling factor f.
        """
        for name, size in zip(("height", "width"), x.shape[-2:], strict=True):
            if rest := size % self.factor:
                lower = size - rest
                nearest = f"{lower} or {lower + self.factor}" if lower else f"{self.factor}"
                raise ValueError(f"{name}={size} is not a multiple of {self.factor}; use {nearest}")
        return self.middle(self.down(x))

    def down(self, x: Tensor) -> Tensor:
        """The part that is at the picture's resolutions: (B, 3, H, W) -> (B, D, H / f, W / f)."""
        return in_turn([self.conv_in, *_layers(self.down_blocks)], x)

    def middle(self, x: Tensor) -> Tensor:
        """The part at the latent's resolution: (B, D, h, w) -> (B, out_channels, h, w)."""
        return self.conv_out(self.conv_norm_out(self.mid_block(x)))


def _layers(levels: nn.ModuleList) -> Iterator[nn.Module]:
    """Those of all levels, one by one: a level that is called keeps what it is given until its last layer has run."""
    for level in levels:
        assert isinstance(level, DownBlock | UpBlock)
        yield from level.layers


class Decoder(nn.Module):
    """Latent (B, C, h, w) -> picture (B, 3, h f, w f)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.widths[::-1], config.norm_groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], groups, config.mid_attention)
        self.up_blocks = nn.ModuleList(
            UpBlock(
                widths[max(i - 1, 0)],
                width,
                config.blocks_per_level + 1,
                groups,
                attention=len(widths) - 1 - i in config.attention_levels,
                up=i < len(widths) - 1,
            )
            for i, width in enumerate(widths)
        )
        self.conv_norm_out = GroupNorm(groups, widths[-1], eps=NORM_EPS, silu=True)
        self.conv_out = nn.Conv2d(widths[-1], config.in_channels, 3, padding=1)

    @property
    def repeated_blocks(self) -> list[nn.Module]:
        """See `KLAutoencoder.repeated_blocks`."""
        return [block for level in (self.mid_block, *self.up_blocks) for block in (*level.resnets, *level.attentions)]

    def forward(self, z: Tensor) -> Tensor:
        """z: (B, C, h, w) -> (B, 3, h f, w f)."""
        return self.up(self.middle(z))

    def middle(self, z: Tensor) -> Tensor:
        """The part that is at the latent's resolution: (B, C, h, w) -> (B, D, h, w)."""
        return self.mid_block(self.conv_in(z))

    def up(self, x: Tensor) -> Tensor:
        """The part at the picture's resolutions: (B, D, h, w) -> (B, 3, h f, w f)."""
        return convolved(in_turn([*_layers(self.up_blocks)], x), self.conv_norm_out, self.conv_out)
