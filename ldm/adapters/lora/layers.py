"""What of a model adapters can change, and how it is addressed: `unet.mid_block.attentions.0.proj_in`."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

Layer = nn.Linear | nn.Conv2d

UNET, TEXT, TEXT_2 = "unet", "text_encoder", "text_encoder_2"
TOWERS = (UNET, TEXT, TEXT_2)
"""The networks that adapters are made for; every address begins with one of these words."""


BIAS = ".bias"
"""The end of the address of a bias; the rest is that of its layer or norm."""
_CHANGEABLE = nn.Linear | nn.Conv2d | nn.GroupNorm | nn.LayerNorm | nn.Embedding


@dataclass(frozen=True)
class Place:
    """A parameter of a network: the `name` (weight or bias) of `module`."""

    module: nn.Module
    name: str

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that is there now."""
        found = getattr(self.module, self.name)
        assert isinstance(found, nn.Parameter)
        return found


def changeable_parameters(towers: Mapping[str, nn.Module]) -> dict[str, Place]:
    """All that adapters can change of the networks `towers` (by a word of `TOWERS`), by address.

    These are weights of layers, norms and tables of embeddings, and biases under the same address and `.bias`.
    """
    return {
        address(tower, module_name) + (BIAS if name == "bias" else ""): Place(module, name)
        for tower, network in towers.items()
        for module_name, module in network.named_modules()
        if isinstance(module, _CHANGEABLE)
        for name in ("weight", "bias")
        if getattr(module, name, None) is not None
    }


def adaptable_layers(towers: Mapping[str, nn.Module]) -> dict[str, Layer]:
    """All linear and convolutional layers of the networks `towers` (by a word of `TOWERS`), by address.

    Text encoders are our ClipTextModel, or transformers' CLIPTextModel or CLIPTextModelWithProjection: their addresses
    have `text_model` in them whether the names of the layers have or not.
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
