"""A small super-resolution network: residual blocks at the low resolution, then sub-pixel convolutions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.networks.upscaler.config import UpscalerConfig


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), without normalisation (EDSR, Lim et al. 2017, arXiv:1707.02921, figure 2c)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) -> (B, C, H, W)."""
        return x + self.conv2(F.relu(self.conv1(x)))


class Doubling(nn.Module):
    """Sub-pixel convolution (Shi et al. 2016, arXiv:1609.05158), (B, C, H, W) -> (B, C', 2 H, 2 W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4 * out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) -> (B, C', 2 H, 2 W)."""
        return F.pixel_shuffle(self.conv(x), 2)


class Bicubic(nn.Module):
    """`bicubic` as a layer."""

    margin = 2  # see `autoencoder.seamless`

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) -> (B, 3, scale H, scale W) in fp32."""
        return bicubic(images, self.scale)


class Upscaler(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] of any size -> (B, 3, factor H, factor W).

    The network adds detail to a bicubic enlargement. Its last layer starts at zero, so an untrained one is bicubic.
    All but the last convolutions run at the low resolution.
    """

    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__()
        self.config = config
        self.enlarge = Bicubic(config.factor)
        self.conv_in = nn.Conv2d(3, config.width, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(config.width) for _ in range(config.blocks))
        widths = [config.width >> i for i in range(config.doublings)] + [3]
        self.doublings = nn.ModuleList(Doubling(widths[i], widths[i + 1]) for i in range(config.doublings))
        with torch.no_grad():
            for block in self.blocks:
                assert isinstance(block, ResidualBlock)
                block.conv2.weight.mul_(0.1)  # a deep stack without normalisation starts near the identity
            self.last_layer.weight.zero_()
            assert self.last_layer.bias is not None
            self.last_layer.bias.zero_()

    @property
    def last_layer(self) -> nn.Conv2d:
        """The convolution whose output is the detail."""
        last = self.doublings[-1]
        assert isinstance(last, Doubling)
        return last.conv

    @property
    def repeated_blocks(self) -> list[nn.Module]:
        """The residual blocks: the units of checkpointing, compilation and sharding."""
        return list(self.blocks)

    @property
    def margin(self) -> int:
        """How many input pixels around it an output pixel depends on; tiles that overlap by this have no seams."""
        # Each doubling's convolution reaches half as far as the one before; bicubic reaches 2.
        return 2 + 2 * self.config.blocks + 2

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) in [-1, 1] -> (B, 3, factor H, factor W) in fp32, about [-1, 1], not clamped."""
        x = images.to(next(self.parameters()).dtype).contiguous(memory_format=torch.channels_last)
        shallow = self.conv_in(x)
        x = shallow
        for block in self.blocks:
            x = block(x)
        x = x + shallow
        for doubling in self.doublings[:-1]:
            x = F.relu(doubling(x))
        return self.enlarge(images) + self.doublings[-1](x).float()


def bicubic(images: Tensor, factor: int) -> Tensor:
    """images (B, 3, H, W) -> (B, 3, factor H, factor W) in fp32 by bicubic interpolation."""
    return F.interpolate(images.float(), scale_factor=float(factor), mode="bicubic")
