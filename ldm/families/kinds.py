"""What a model draws from besides noise and text: told by the input channels of its network beyond the latent's."""

from ldm.networks.unet.config import UNetConfig

TEXT_TO_IMAGE, INPAINTING, EDITING = "text to image", "inpainting", "InstructPix2Pix"
DEPTH, UPSCALING = "depth", "upscaling"

CONCAT = {
    INPAINTING: "the mask (1 where to draw) and the latents of the picture with that part greyed out",
    EDITING: "the autoencoder's latents of the picture to change, without the latent format's scale",
    DEPTH: "the depth map in [-1, 1], 1 is near",
    UPSCALING: "the small picture in [-1, 1] with noise of `noise_level` in it",
}
"""Kind -> what `Conditioning.concat (B, C, h, w)` holds."""


def kind_of(config: UNetConfig) -> str | None:
    """The kind of a network, or None if its input channels are those of no known kind.

    Inpainting has 1 + C more channels than its C latent ones, InstructPix2Pix C, depth 1, and the x4 upscaler 3 and
    classes for the noise level.
    """
    latent = config.out_channels
    extra = config.in_channels - latent
    if extra == 3 and config.num_classes is not None:
        return UPSCALING
    return {0: TEXT_TO_IMAGE, 1: DEPTH, latent: EDITING, 1 + latent: INPAINTING}.get(extra)
