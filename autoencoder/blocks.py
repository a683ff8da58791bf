"""The parts of the autoencoders: residual block, attention, down- and upsampling. Parameter names are diffusers'."""

import torch.nn.functional as F
from torch import Tensor, nn

from autoencoder.kernels import GroupNorm, double_and_convolve_transposed, uses_kernels
from autoencoder.kernels.strips import StatisticsApart, add_in_strips, in_strips, is_large, normalise_and_convolve

# The epsilon of every group normalisation in the Stable Diffusion autoencoders.
NORM_EPS = 1e-6


def convolved(x: Tensor, norm: nn.Module, convolution: nn.Module, over: bool = False) -> Tensor:
    """convolution(norm(x)): (B, C, H, W) -> (B, C', H, W); on a CPU large maps take little more than they are.

    Args:
        x: what is given.
        norm: of it.
        convolution: of what the norm gives.
        over: whether nothing else needs x, so that the result may be written over it.
    """
    if is_large(x) and isinstance(norm, StatisticsApart) and isinstance(convolution, nn.Conv2d):  # else of a view
        return normalise_and_convolve(x, norm, convolution, over)
    out: Tensor = convolution(norm(x))
    return out


class ResnetBlock(nn.Module):
    """Pre-activation residual block: twice (GroupNorm, SiLU, 3x3 convolution), (B, C, H, W) -> (B, C', H, W)."""

    def __init__(self, in_channels: int, out_channels: int, norm_groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(norm_groups, in_channels, eps=NORM_EPS, silu=True)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm(norm_groups, out_channels, eps=NORM_EPS, silu=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) -> (B, C', H, W)."""
        h = convolved(x, self.norm1, self.conv1)
        h = convolved(h, self.norm2, self.conv2, over=True)
        if is_large(x):
            return h.add_(x) if self.conv_shortcut is None else add_in_strips(h, x, self.conv_shortcut, margin=0)
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    """Single-head self-attention over all positions with a residual, (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.group_norm = GroupNorm(norm_groups, channels, eps=NORM_EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) -> (B, C, H, W)."""
        tokens = self.group_norm(x).flatten(2).transpose(1, 2).unsqueeze(1)
        h = self.attend(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        h = self.to_out[0](h.squeeze(1))
        return x + h.transpose(1, 2).reshape(x.shape)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries, keys and values, all (B, 1, L, D), to what is looked up, of the same shape."""
        return F.scaled_dot_product_attention(q, k, v)


class Downsample(nn.Module):
    """Halve height and width with a strided 3x3 convolution, padded right and below as CompVis did."""

    margin, scale = 2, 0.5  # see `autoencoder.seamless`

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) -> (B, C, H / 2, W / 2)."""
        if is_large(x):
            return in_strips(self._halved, x, self.conv.out_channels, scale=0.5, margin=2)
        return self._halved(x)

    def _halved(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double height and width by repeating every position, then a 3x3 convolution."""

    margin, scale = 1, 2

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) -> (B, C, 2 H, 2 W)."""
        if is_large(x):
            return in_strips(self.doubled, x, self.conv.out_channels, scale=2)
        return self.doubled(x)

    def doubled(self, x: Tensor) -> Tensor:
        """Likewise, whatever the size: for some rows of a map."""
        if uses_kernels(x):
            return double_and_convolve_transposed(x, self.conv.weight, self.conv.bias)
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Level(nn.Module):
    """Residual blocks of one resolution, each with self-attention or none; called layer by layer."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, norm_groups: int, attention: bool) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(Attention(out_channels, norm_groups) for _ in range(blocks * attention))
        self.resnets = nn.ModuleList(
            ResnetBlock(in_channels if i == 0 else out_channels, out_channels, norm_groups) for i in range(blocks)
        )

    @property
    def layers(self) -> list[nn.Module]:
        """In the order in which they run: every residual block, each followed by its attention where there is one."""
        return [layer for i, block in enumerate(self.resnets) for layer in (block, *self.attentions[i : i + 1])]


class DownBlock(_Level):
    """One encoder level, which ends in a `Downsample` unless it is the coarsest."""

    def __init__(
        self, in_channels: int, out_channels: int, blocks: int, norm_groups: int, attention: bool, down: bool
    ) -> None:
        super().__init__(in_channels, out_channels, blocks, norm_groups, attention)
        self.downsamplers = nn.ModuleList([Downsample(out_channels)] if down else [])

    @property
    def layers(self) -> list[nn.Module]:
        """See `_Level`."""
        return [*super().layers, *self.downsamplers]


class UpBlock(_Level):
    """One decoder level, which ends in an `Upsample` unless it is the finest."""

    def __init__(
        self, in_channels: int, out_channels: int, blocks: int, norm_groups: int, attention: bool, up: bool
    ) -> None:
        super().__init__(in_channels, out_channels, blocks, norm_groups, attention)
        self.upsamplers = nn.ModuleList([Upsample(out_channels)] if up else [])

    @property
    def layers(self) -> list[nn.Module]:
        """See `_Level`."""
        return [*super().layers, *self.upsamplers]


class MidBlock(nn.Module):
    """The coarsest level's residual block, optional self-attention, residual block; the shape stays."""

    def __init__(self, channels: int, norm_groups: int, attention: bool) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([Attention(channels, norm_groups)] if attention else [])
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, norm_groups) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) -> (B, C, H, W)."""
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)
