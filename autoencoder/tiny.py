"""TAESD, a tiny autoencoder on the latents of a large one (Bohan 2023, github.com/madebyollin/taesd)."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from autoencoder.config import AutoencoderConfig
from autoencoder.kl import Gaussian

_BLOCKS = 3
"""Residual blocks a level; where the picture is largest, there is one."""


class TinyAutoencoder(nn.Module):
    """Pictures in [-1, 1] to latents in a denoiser's scale and back. Parameter names are diffusers' AutoencoderTiny's.

    It was trained to give the latents that a large autoencoder gives, and pictures like its. What it decodes is an
    approximation, at a hundredth of the cost.
    """

    def __init__(self, config: AutoencoderConfig, with_encoder: bool = True) -> None:
        """Build the networks.

        Args:
            config: `widths` (equal ones), `in_channels` and `latent_channels` are used.
            with_encoder: a decoder alone decodes only.
        """
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config) if with_encoder else None
        self.decoder = _Decoder(config)

    def encode(self, x: Tensor) -> Gaussian:
        """x: (B, 3, H, W) in [-1, 1] -> a point over (B, C, H / f, W / f).

        Raises:
            ValueError: there is no encoder.
        """
        if self.encoder is None:
            raise ValueError("this TAESD is a decoder alone; to encode, put taesd_encoder.safetensors beside it")
        return Gaussian.point(self.encoder.layers(x / 2 + 0.5))

    def decode(self, z: Tensor) -> Tensor:
        """z: (B, C, h, w) -> picture (B, 3, h f, w f), about [-1, 1], not clamped."""
        return self.decoder.layers(torch.tanh(z / 3) * 3) * 2 - 1


class _Encoder(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        width, *others = config.widths
        layers: list[nn.Module] = [_convolution(config.in_channels, width), _Block(width)]
        for wide, next_width in pairwise((width, *others)):
            layers += [_convolution(wide, next_width, stride=2, bias=False), *_blocks(next_width)]
        self.layers = nn.Sequential(*layers, _convolution(config.widths[-1], config.latent_channels))


class _Decoder(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.widths[::-1]
        layers: list[nn.Module] = [_convolution(config.latent_channels, widths[0]), nn.ReLU()]
        for wide, next_width in pairwise(widths):
            layers += [*_blocks(wide), nn.Upsample(scale_factor=2), _convolution(wide, next_width, bias=False)]
        self.layers = nn.Sequential(*layers, _Block(widths[-1]), _convolution(widths[-1], config.in_channels))

    @property
    def conv_out(self) -> nn.Conv2d:
        """The last convolution, as other decoders call it."""
        last = self.layers[-1]
        assert isinstance(last, nn.Conv2d)
        return last


class _Block(nn.Module):
    """Three convolutions beside a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second, third = (_convolution(width, width) for _ in range(3))
        self.conv = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, width, H, W); returns the same shape."""
        return torch.relu(self.conv(x) + x)


def _blocks(width: int) -> list[nn.Module]:
    return [_Block(width) for _ in range(_BLOCKS)]


def _convolution(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)
