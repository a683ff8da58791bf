"""The denoising network."""

from ldm.unet.config import UNetConfig
from ldm.unet.model import Residuals, UNet

__all__ = ["Residuals", "UNet", "UNetConfig"]
