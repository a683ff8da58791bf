"""The vector-quantised autoencoder of latent diffusion (Rombach et al. 2022, section 3.1; Esser et al. 2021)."""

from torch import Tensor, nn

from autoencoder.codebook import Codebook, Quantized
from autoencoder.coders import Decoder, Encoder
from autoencoder.config import AutoencoderConfig
from autoencoder.kl import Gaussian


class VQAutoencoder(nn.Module):
    """Pictures in [-1, 1] to latents and back through a codebook. Parameter names are diffusers' VQModel's.

    The codebook belongs to the decoder: `encode` gives the latents as they are and `decode` quantises, so that a
    denoiser works on continuous latents and may be off by a little (Rombach et al. 2022, section 3.1, VQ-reg).
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        if not config.codebook_size:
            raise ValueError("codebook_size=0 is a KLAutoencoder; set the number of codes, e.g. codebook_size=8192")
        self.config = config
        self.encoder = Encoder(config, config.latent_channels)
        self.quant_conv = nn.Conv2d(config.latent_channels, config.code_channels, 1)
        self.quantize = Codebook(config.codebook_size, config.code_channels)
        self.post_quant_conv = nn.Conv2d(config.code_channels, config.latent_channels, 1)
        self.decoder = Decoder(config)

    @property
    def repeated_blocks(self) -> list[nn.Module]:
        """See `KLAutoencoder.repeated_blocks`."""
        return [*self.encoder.repeated_blocks, *self.decoder.repeated_blocks]

    def encode(self, x: Tensor) -> Gaussian:
        """x: (B, 3, H, W) in [-1, 1] -> latents (B, D, H / f, W / f) before the codebook, as a Gaussian of std 0.

        Raises:
            ValueError: height or width is not a multiple of the downsampling factor f.
        """
        return self.posterior(self.encoder(x))

    def posterior(self, encoded: Tensor) -> Gaussian:
        """What the encoder gives (B, C, h, w) -> latents (B, D, h, w), as a Gaussian of std 0."""
        return Gaussian.point(self.quant_conv(encoded))

    def decode(self, z: Tensor) -> Tensor:
        """z: (B, D, h, w) -> picture (B, 3, h f, w f) of the nearest codes, about [-1, 1], not clamped."""
        return self.decoder(self.decoder_input(z))

    def decoder_input(self, z: Tensor) -> Tensor:
        """z: (B, D, h, w) -> what the decoder is given for the nearest codes, (B, C, h, w)."""
        return self.post_quant_conv(self.quantize(z).codes.to(z.dtype))

    def decode_codes(self, codes: Tensor) -> Tensor:
        """codes: (B, D, h, w) that are quantised already -> picture (B, 3, h f, w f)."""
        return self.decoder(self.post_quant_conv(codes))

    def forward(self, x: Tensor) -> tuple[Tensor, Quantized]:
        """Reconstruct x (B, 3, H, W) through the codebook."""
        quantized = self.quantize(self.encode(x).mean)
        return self.decode_codes(quantized.codes), quantized
