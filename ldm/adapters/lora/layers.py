"""Which layers of a model adapters can change, and how they are addressed: `unet.mid_block.attentions.0.proj_in`."""

from collections.abc import Mapping

from torch import nn

Layer = nn.Linear | nn.Conv2d

UNET, TEXT, TEXT_2 = "unet", "text_encoder", "text_encoder_2"
TOWERS = (UNET, TEXT, TEXT_2)
"""The networks that adapters are made for; every address begins with one of these words."""


def adaptable_layers(towers: Mapping[str, nn.Module]) -> dict[str, Layer]:
    """All linear and convolutional layers of the networks `towers` (by a word of `TOWERS`), by address.

    Text encoders are transformers' CLIPTextModel or CLIPTextModelWithProjection. Their addresses have `text_model` in
    them whether the installed transformers has or not (it dropped it in 5.6).
    """
    return {
        address(tower, name): module
        for tower, network in towers.items()
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def address(tower: str, name: str) -> str:
    """Address of the module `name` of a network."""
    if tower != UNET and not name.startswith(("text_model.", "text_projection")):
        name = f"text_model.{name}"
    return f"{tower}.{name}"
