"""The smallest real networks that a latent diffusion model is trained with."""

import torch

from autoencoder.config import AutoencoderConfig
from autoencoder.kl import KLAutoencoder
from autoencoder.latent_format import LatentFormat
from ldm.networks.unet import UNet, UNetConfig
from ldm.training.diffusion.config import DiffusionConfig
from ldm.training.objectives.latent_diffusion import FrozenParts, LatentDiffusionObjective


def tiny_unet(num_classes: int) -> UNet:
    """A U-Net of labels without attention."""
    return UNet(
        UNetConfig(
            widths=(8, 8),
            blocks_per_level=1,
            transformer_layers=(0, 0),
            mid_transformer_layers=0,
            num_heads=(1, 1),
            context_dim=None,
            num_classes=num_classes,
            norm_groups=4,
        )
    )


def tiny_autoencoder() -> KLAutoencoder:
    """An autoencoder of factor 2, without attention."""
    return KLAutoencoder(AutoencoderConfig(widths=(8, 8), blocks_per_level=1, norm_groups=4, mid_attention=False))


def tiny_objective(latent_format: LatentFormat, **settings) -> LatentDiffusionObjective:
    """Both, always with the same weights, for three classes and pictures of 16 px; `settings` are of the diffusion."""
    torch.manual_seed(0)
    unet = tiny_unet(num_classes=4)
    frozen = FrozenParts(tiny_autoencoder(), latent_format)
    return LatentDiffusionObjective(unet, frozen, DiffusionConfig(**settings))
