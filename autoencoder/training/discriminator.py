"""The patch discriminator of VQGAN (Isola et al. 2017, arXiv:1611.07004; Esser et al. 2021, arXiv:2012.09841)."""

import math

import torch.nn.functional as F
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches of a picture: (B, 3, H, W) in [-1, 1] -> logits (B, 1, h, w), high for real.

    What lies between the first convolution and the last is normalised over each picture by itself (in groups of
    channels; Wu and He 2018, arXiv:1803.08494), so the verdict on one picture does not depend on its neighbours. A
    small difference, such as a soft edge, must be able to move the verdict: with spectral norms throughout, nothing
    was learned from it.

    Args:
        in_channels: channels of the picture.
        width: channels after the first convolution; doubled at each level up to eightfold.
        levels: strided 4x4 convolutions.
    """

    def __init__(self, in_channels: int = 3, width: int = 64, levels: int = 3) -> None:
        super().__init__()
        channels = [in_channels] + [width * min(2**i, 8) for i in range(levels)]
        self.down = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], 4, stride=2, padding=1) for i in range(levels)
        )
        self.mix = nn.Conv2d(channels[-1], channels[-1], 3, padding=1)
        inner = [*channels[2:], channels[-1]]
        self.norms = nn.ModuleList(nn.GroupNorm(math.gcd(each, 8), each) for each in inner)
        self.verdict = nn.Conv2d(channels[-1], 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 3, H, W) -> logits (B, 1, H / 2^levels, W / 2^levels)."""
        first, *inner = self.down
        x = F.leaky_relu(first(x), 0.2)
        for layer, norm in zip((*inner, self.mix), self.norms, strict=True):
            x = F.leaky_relu(norm(layer(x)), 0.2)
        return self.verdict(x)


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Mean of max(0, 1 - real) and max(0, 1 + fake), halved (Lim and Ye 2017, arXiv:1705.02894)."""
    return 0.5 * (F.relu(1.0 - real.float()).mean() + F.relu(1.0 + fake.float()).mean())


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """-mean(fake): the hinge game's loss of the generator."""
    return -fake.float().mean()
