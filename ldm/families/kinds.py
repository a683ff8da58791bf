"""The kind of a model (text to image, inpainting, editing, upscaling), read off its network's input channels."""

from collections.abc import Set
from typing import Protocol

TEXT_TO_IMAGE, INPAINTING, EDITING = "text to image", "inpainting", "InstructPix2Pix"
DEPTH, UPSCALING = "depth", "upscaling"

CONCAT = {
    INPAINTING: "the mask (1 where to draw) and the latents of the picture with that part greyed out",
    EDITING: "the autoencoder's latents of the picture to change, without the latent format's scale",
    DEPTH: "the depth map in [-1, 1], 1 is near",
    UPSCALING: "the small picture in [-1, 1] with noise of `noise_level` in it",
}
"""Kind -> contents of `Conditioning.concat (B, C, h, w)`."""


SERVED = {
    TEXT_TO_IMAGE: "use ldm generate PROMPT, or ldm edit, ldm inpaint and ldm outpaint IMAGE PROMPT",
    INPAINTING: "use ldm inpaint IMAGE PROMPT --mask MASK or ldm outpaint, in Python model.inpaint and model.outpaint",
    EDITING: "use ldm edit IMAGE INSTRUCTION --instruct, in Python model.instruct(prompt, image)",
    DEPTH: "use ldm edit IMAGE PROMPT --depth MAP, in Python model.img2img(prompt, image, depth=...)",
    UPSCALING: "use ldm upscale IMAGE PROMPT, in Python model.upscale(prompt, image)",
}
"""Kind -> the commands that draw with it."""


def refusal(kind: str) -> str:
    """The line that a command says to a model that it cannot draw with, and which one can."""
    needs = " and needs a picture" if kind in CONCAT else ""
    return f"this model is for {kind}{needs}: {SERVED.get(kind, 'no command draws with it yet')}"


class Channels(Protocol):
    """The input and output channels of a network or of its config."""

    @property
    def in_channels(self) -> int:
        """Channels of the input, those of `Conditioning.concat` included."""
        ...

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        ...

    @property
    def needs(self) -> Set[str]:
        """The fields of `Conditioning` that the network cannot do without."""
        ...


def kind_of(network: Channels) -> str | None:
    """The kind of a network, or None if its input channels are those of no known kind.

    Inpainting has 1 + C more channels than its C latent ones, InstructPix2Pix C, depth 1, and the x4 upscaler 3 and
    classes for the noise level.
    """
    latent = network.out_channels
    extra = network.in_channels - latent
    if extra == 3 and "labels" in network.needs:
        return UPSCALING
    return {0: TEXT_TO_IMAGE, 1: DEPTH, latent: EDITING, 1 + latent: INPAINTING}.get(extra)
