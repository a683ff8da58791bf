"""Which family a U-Net belongs to, from its names and shapes.

Families differ in structure, which models of any width share: a table of labels (x4 upscaler), an embedding
of pooled text and sizes with three levels (XL) or four (its refiner), transformers that begin with a linear layer
(2.x) or a 1x1 convolution (1.x). Widths only confirm it.
"""

from ldm.families.family import Family
from ldm.families.stable_diffusion import SD1, SD2, SDXL, SDXL_REFINER, X4_UPSCALER
from ldm.io.disk.files import ModelFileError
from ldm.io.tensors.weights import Weights


def family_of(unet: Weights, where: str) -> Family:
    """The family of a U-Net with our names.

    Raises:
        ModelFileError: a U-Net of no family.
    """
    projections = {len(weight.shape) for name, weight in unet.items() if name.endswith(".proj_in.weight")}
    if projections not in ({2}, {4}):
        raise ModelFileError(f"{where}: its U-Net has no transformers as Stable Diffusion has them")
    if "class_embedding.weight" in unet:
        return X4_UPSCALER
    if "add_embedding.linear_1.weight" in unet:
        levels = sum(f"down_blocks.{level}.resnets.0.conv1.weight" in unet for level in range(8))
        if "down_blocks.0.attentions.0.proj_in.weight" in unet:
            raise ModelFileError(
                f"{where} is Stable unCLIP, which is conditioned on a picture and not supported here; "
                "the plain SD 2.1 checkpoint works"
            )
        if levels not in (3, 4):
            raise ModelFileError(f"{where}: its U-Net has {levels} levels; Stable Diffusion XL has 3, its refiner 4")
        return SDXL if levels == 3 else SDXL_REFINER
    return SD2 if projections == {2} else SD1
