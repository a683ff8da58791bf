"""The denoising network."""

from ldm.networks.unet.config import UNetConfig
from ldm.networks.unet.model import Residuals, UNet

__all__ = ["Residuals", "UNet", "UNetConfig"]
