"""Builds the KL or the VQ autoencoder that a configuration describes."""

from autoencoder.config import AutoencoderConfig
from autoencoder.kl import KLAutoencoder
from autoencoder.tiny import TinyAutoencoder
from autoencoder.vq import VQAutoencoder

Autoencoder = KLAutoencoder | VQAutoencoder | TinyAutoencoder
"""Any kind; all have `config`, `encode(x) -> Gaussian` and `decode(z) -> x`."""


def build_autoencoder(config: AutoencoderConfig) -> Autoencoder:
    """A `VQAutoencoder` where there is a codebook, else a `KLAutoencoder`, with random weights."""
    return VQAutoencoder(config) if config.codebook_size else KLAutoencoder(config)
