"""A U-Net in pixel space that adds what damage took away, and a small network that says which damage there is."""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.networks.restorer.config import RestorerConfig

_DETAIL_GAIN = 8.0  # detail is that much weaker than pictures are
_HIDDEN = 64  # channels of the two small perceptrons


@dataclass(frozen=True)
class Found:
    """What a network says about the damage of pictures.

    Attributes:
        chances: of each kind that it is there, as logits (B, K).
        levels: of each kind if it is there, (B, K), 1 for the strongest that is trained.
    """

    chances: Tensor
    levels: Tensor


class Block(nn.Module):
    """x + conv(relu(conv(x) + shift)), as in EDSR and DRUNet (Zhang et al. 2021, arXiv:2008.13751): no normalisation.

    Statistics of a whole picture would tie its parts to each other, and no tile would be what the whole is.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():
            self.conv2.weight.mul_(0.1)  # a deep stack without normalisation starts near the identity

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        """x: (B, C, H, W), shift: (B, C, 1, 1) -> (B, C, H, W)."""
        return x + self.conv2(F.relu(self.conv1(x) + shift, inplace=True))


class Level(nn.Module):
    """Blocks of one resolution, all shifted by the same linear map of the conditions."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.shift = nn.Linear(_HIDDEN, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        nn.init.zeros_(self.shift.weight)
        nn.init.zeros_(self.shift.bias)

    def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
        """x: (B, C, H, W), conditions: (B, 64) -> (B, C, H, W)."""
        shift = self.shift(conditions)[:, :, None, None].to(x.dtype)
        for block in self.blocks:
            x = block(x, shift)
        return x


class Finder(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] of any size -> the damage in them.

    A cell of 8 x 8 pixels, as JPEG has them, is judged by what lies around it. Named is the mean of all, and one in
    which cells weigh as much as they say: what JPEG does shows at edges alone. The network sees pixels and what their
    neighbours do not explain of them; it is one of its own, as what restores a picture need not know what to call it.
    """

    def __init__(self, kinds: int) -> None:
        super().__init__()
        strides = ((6, 32, 1), (32, 32, 1), (32, 32, 2), (32, 64, 2), (64, 64, 2), (64, 64, 1))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, stride=stride) for a, b, stride in strides)
        self.weight = nn.Conv2d(64, 64, 1)
        self.head = nn.Sequential(nn.Linear(128, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 2 * kinds))
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # six layers without normalisation

    def forward(self, images: Tensor) -> Found:
        """images: (B, 3, H, W) in [-1, 1]."""
        images = images.float()
        detail = images - F.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
        x = torch.cat([images, _DETAIL_GAIN * detail], 1).to(next(self.parameters()).dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        for conv in self.convs:
            x = F.relu(conv(x), inplace=True)
        weight, judged = self.weight(x).float().flatten(2).softmax(2), x.float().flatten(2)
        means = torch.cat([judged.mean(2), (weight * judged).sum(2)], 1)
        chances, levels = self.head(means.to(x.dtype)).float().chunk(2, 1)
        return Found(chances, levels)


class Restorer(nn.Module):
    """Damaged pictures (B, 3, H, W) in [-1, 1] of any size -> restored ones.

    The network adds to the picture. Its last layer starts at zero, so an untrained one changes nothing.

    Attributes:
        finder: says which damage there is.
    """

    def __init__(self, config: RestorerConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.conditions = nn.Sequential(
            nn.Linear(2 * len(config.kinds), _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN)
        )
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(map(Level, widths, config.encoder_blocks))
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.middle = Level(widths[-1], config.middle_blocks)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList(map(Level, widths, config.decoder_blocks))
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)
        self.finder = Finder(len(config.kinds))
        nn.init.zeros_(self.conv_out.weight)
        assert self.conv_out.bias is not None
        nn.init.zeros_(self.conv_out.bias)

    @property
    def repeated_blocks(self) -> list[nn.Module]:
        """The residual blocks: the units of checkpointing, compilation and sharding."""
        return [block for level in (*self.encoder, self.middle, *self.decoder) for block in level.blocks]

    @property
    def margin(self) -> int:
        """How many pixels around it an output pixel depends on, rounded up to whole cells of the coarsest level.

        Tiles that begin at multiples of `config.stride` and overlap by this are parts of the whole.
        """
        config = self.config
        convolutions = [2 * (a + b) for a, b in zip(config.encoder_blocks, config.decoder_blocks, strict=True)]
        reach = sum(number * 2**level for level, number in enumerate([*convolutions, 2 * config.middle_blocks]))
        reach += 2 + 2 * config.stride  # first and last convolution; cells of the coarser levels are blocks of pixels
        return -(-reach // config.stride) * config.stride

    def forward(self, images: Tensor, conditions: Tensor) -> Tensor:
        """Restore pictures.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            conditions: (B, 2 K), of each kind first whether it is there, then its level in [0, 1]; all 0 is blind.

        Returns:
            The restored pictures, fp32, about [-1, 1], not clamped.
        """
        height, width = images.shape[2:]
        stride = self.config.stride
        x = images.to(self.conv_in.weight.dtype).contiguous(memory_format=torch.channels_last)
        if height % stride or width % stride:
            x = F.pad(x, (0, -width % stride, 0, -height % stride), mode="replicate")
        shifts = self.conditions(conditions.to(x.dtype))
        x = self.conv_in(x)
        skips = []
        for level, down in zip(self.encoder, self.downs, strict=True):
            skips.append(level(x, shifts))
            x = down(skips[-1])
        x = self.middle(x, shifts)
        for up, level, skip in zip(self.ups[::-1], self.decoder[::-1], skips[::-1], strict=True):
            x = level(up(x) + skip, shifts)
        added = self.conv_out(x)[:, :, :height, :width]
        return images.float() + added.float()
