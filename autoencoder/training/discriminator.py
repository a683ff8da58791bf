"""The patch discriminator of VQGAN (Isola et al. 2017, arXiv:1611.07004; Esser et al. 2021, arXiv:2012.09841)."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches of a picture: (B, 3, H, W) in [-1, 1] -> logits (B, 1, h, w), high for real.

    The inner convolutions are spectrally normalised (Miyato et al. 2018, arXiv:1802.05957), which needs no statistics of
    the batch: the verdict on one picture does not depend on its neighbours. The first and the last are free, as in
    Real-ESRGAN (Wang et al. 2021, arXiv:2107.10833): were all of them bounded, so would be what a small difference,
    such as a soft edge, can do to the verdict, and nothing would be learned from it.

    Args:
        in_channels: channels of the picture.
        width: channels after the first convolution; doubled at each level up to eightfold.
        levels: strided 4x4 convolutions.
    """

    def __init__(self, in_channels: int = 3, width: int = 64, levels: int = 3) -> None:
        super().__init__()
        channels = [in_channels] + [width * min(2**i, 8) for i in range(levels)]
        convolutions = [nn.Conv2d(channels[i], channels[i + 1], 4, stride=2, padding=1) for i in range(levels)]
        self.down = nn.ModuleList([convolutions[0], *(spectral_norm(each) for each in convolutions[1:])])
        self.mix = spectral_norm(nn.Conv2d(channels[-1], channels[-1], 3, padding=1))
        self.verdict = nn.Conv2d(channels[-1], 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 3, H, W) -> logits (B, 1, H / 2^levels, W / 2^levels)."""
        for layer in (*self.down, self.mix):
            x = F.leaky_relu(layer(x), 0.2)
        return self.verdict(x)


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Mean of max(0, 1 - real) and max(0, 1 + fake), halved (Lim and Ye 2017, arXiv:1705.02894)."""
    return 0.5 * (F.relu(1.0 - real.float()).mean() + F.relu(1.0 + fake.float()).mean())


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """-mean(fake): the hinge game's loss of the generator."""
    return -fake.float().mean()
