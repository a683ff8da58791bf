"""A U-Net in pixel space that adds what damage took away, and says which damage it found."""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.networks.restorer.config import RestorerConfig

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
    """Names the damage from the feature maps of all levels.

    Each cell is judged by itself and the mean taken then, so that the judgements of tiles may be averaged, and noise
    that depends on brightness differs from noise that does not.
    """

    def __init__(self, widths: tuple[int, ...], kinds: int) -> None:
        super().__init__()
        self.probes = nn.ModuleList(nn.Conv2d(width, _HIDDEN, 1) for width in widths)
        self.head = nn.Sequential(nn.Linear(len(widths) * _HIDDEN, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 2 * kinds))

    def forward(self, maps: list[Tensor]) -> Found:
        """maps: (B, C, h, w) of each level, the finest first."""
        judged = [
            F.relu(probe(x)).mean((2, 3), dtype=torch.float32) for probe, x in zip(self.probes, maps, strict=True)
        ]
        chances, levels = self.head(torch.cat(judged, 1).to(maps[0].dtype)).float().chunk(2, 1)
        return Found(chances, levels)


class Restorer(nn.Module):
    """Damaged pictures (B, 3, H, W) in [-1, 1] of any size -> restored ones, and the damage that was found.

    The network adds to the picture. Its last layer starts at zero, so an untrained one changes nothing.
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
        self.finder = Finder(widths, len(config.kinds))
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

    def forward(self, images: Tensor, conditions: Tensor) -> tuple[Tensor, Found]:
        """Restore pictures.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            conditions: (B, 2 K), of each kind first whether it is there, then its level in [0, 1]; all 0 is blind.

        Returns:
            The restored pictures, fp32, about [-1, 1], not clamped, and the damage of each.
        """
        height, width = images.shape[2:]
        maps, shifts = self._encode(images, conditions)
        *skips, x = maps
        for up, level, skip in zip(self.ups[::-1], self.decoder[::-1], skips[::-1], strict=True):
            x = level(up(x) + skip, shifts)
        added = self.conv_out(x)[:, :, :height, :width]
        return images.float() + added.float(), self._found(maps)

    def find(self, images: Tensor) -> Found:
        """The damage of pictures (B, 3, H, W) in [-1, 1] of which nothing is known, without restoring them."""
        nothing = torch.zeros(len(images), 2 * len(self.config.kinds), device=images.device)
        return self._found(self._encode(images, nothing)[0])

    def _encode(self, images: Tensor, conditions: Tensor) -> tuple[list[Tensor], Tensor]:
        """The maps of all levels, the finest first, and what the conditions (B, 64) became."""
        height, width = images.shape[2:]
        stride = self.config.stride
        x = images.to(self.conv_in.weight.dtype).contiguous(memory_format=torch.channels_last)
        if height % stride or width % stride:
            x = F.pad(x, (0, -width % stride, 0, -height % stride), mode="replicate")
        shifts = self.conditions(conditions.to(x.dtype))
        x = self.conv_in(x)
        maps = []
        for level, down in zip(self.encoder, self.downs, strict=True):
            maps.append(level(x, shifts))
            x = down(maps[-1])
        return [*maps, self.middle(x, shifts)], shifts

    def _found(self, maps: list[Tensor]) -> Found:
        found: Found = self.finder(maps)
        return found
