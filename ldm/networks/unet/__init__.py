"""The denoising U-Net of latent diffusion."""

from ldm.networks.unet.config import UNetConfig
from ldm.networks.unet.model import UNet

__all__ = ["UNet", "UNetConfig"]
