"""The configs of networks, read off the shapes of their weights. What shapes cannot say comes from the family."""

import re
from dataclasses import dataclass

from autoencoder.config import AutoencoderConfig
from ldm.families.family import Heads, Tower
from ldm.io.disk.files import ModelFileError
from ldm.io.keys.text_keys import PROJECTION, layer_count
from ldm.io.tensors.weights import Weights
from ldm.networks.unet.config import UNetConfig

_SIZE_EMBEDDING = 256
"""Width of the sinusoid of each size that SDXL's networks are conditioned on."""
_TRANSFORMER_BLOCK = re.compile(r"(.+\.attentions\.0)\.transformer_blocks\.(\d+)\..+")


@dataclass(frozen=True)
class TextConfig:
    """A CLIP text encoder: sizes from its weights, the rest from its family.

    Attributes:
        projection: width of the projected pooled text, None without a projection.
        pad_token: of its tokenizer.
    """

    width: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    length: int
    activation: str
    pad_token: str
    projection: int | None = None


def infer_unet_config(weights: Weights, heads: Heads, size_count: int, where: str) -> UNetConfig:
    """The config of a U-Net with our names.

    Args:
        weights: by name.
        heads: how the family counts heads.
        size_count: numbers a picture, for networks that are conditioned on sizes.
        where: the file, for errors.

    Raises:
        ModelFileError: weights are missing or have shapes that no such network has.
    """
    blocks = _indices(weights, r"down_blocks\.0\.resnets\.(\d+)\..+")
    levels = _indices(weights, r"down_blocks\.(\d+)\..+")
    widths = tuple(_axis(weights, f"down_blocks.{i}.resnets.0.conv1.weight", 0, where) for i in range(levels))
    depths = _depths(weights)
    found = [depths.get(f"down_blocks.{i}.attentions.0", 0) for i in range(levels)]
    first = next((f"{place}.transformer_blocks.0" for place in depths), None)
    vector = _axis(weights, "add_embedding.linear_1.weight", 1, where) if _has(weights, "add_embedding") else None
    only_cross = tuple(_only_cross(weights, level, widths[level]) for level in range(levels))
    projection = next((name for name in weights if name.endswith(".proj_in.weight")), None)
    try:
        return UNetConfig(
            in_channels=_axis(weights, "conv_in.weight", 1, where),
            out_channels=_axis(weights, "conv_out.weight", 0, where),
            widths=widths,
            blocks_per_level=blocks,
            transformer_layers=tuple(found),
            mid_transformer_layers=depths.get("mid_block.attentions.0", 0),
            num_heads=tuple(heads.count(width) for width in widths),
            context_dim=None if first is None else _axis(weights, f"{first}.attn2.to_k.weight", 1, where),
            linear_projection=projection is not None and len(weights[projection].shape) == 2,
            num_classes=_axis(weights, "class_embedding.weight", 0, where)
            if _has(weights, "class_embedding")
            else None,
            pooled_dim=None if vector is None else vector - size_count * _SIZE_EMBEDDING,
            size_embedding_dim=None if vector is None else _SIZE_EMBEDDING,
            size_count=size_count,
            only_cross_attention=only_cross if any(only_cross) else (),
        )
    except ValueError as error:
        raise ModelFileError(f"{where}: its U-Net cannot be built: {error}") from None


def infer_autoencoder_config(weights: Weights, where: str) -> AutoencoderConfig:
    """The config of an autoencoder with our names.

    Raises:
        ModelFileError: as `infer_unet_config` does.
    """
    levels = _indices(weights, r"encoder\.down_blocks\.(\d+)\..+")
    try:
        return AutoencoderConfig(
            in_channels=_axis(weights, "encoder.conv_in.weight", 1, where),
            latent_channels=_axis(weights, "decoder.conv_in.weight", 1, where),
            widths=tuple(
                _axis(weights, f"encoder.down_blocks.{i}.resnets.0.conv1.weight", 0, where) for i in range(levels)
            ),
            blocks_per_level=_indices(weights, r"encoder\.down_blocks\.0\.resnets\.(\d+)\..+"),
            mid_attention=_has(weights, "decoder.mid_block.attentions"),
            quant_conv=_has(weights, "post_quant_conv"),
        )
    except ValueError as error:
        raise ModelFileError(f"{where}: its autoencoder cannot be built: {error}") from None


def infer_text_config(weights: Weights, tower: Tower, where: str) -> TextConfig:
    """The config of a text encoder with transformers' names.

    Raises:
        ModelFileError: as `infer_unet_config` does.
    """
    embeddings, first = "text_model.embeddings", "text_model.encoder.layers.0.mlp.fc1.weight"
    width = _axis(weights, f"{embeddings}.token_embedding.weight", 1, where)
    if width % tower.head_width:
        raise ModelFileError(f"{where}: its text encoder is {width} wide, not a multiple of {tower.head_width}")
    return TextConfig(
        width=width,
        layers=layer_count(weights),
        heads=width // tower.head_width,
        inner=_axis(weights, first, 0, where),
        vocabulary=_axis(weights, f"{embeddings}.token_embedding.weight", 0, where),
        length=_axis(weights, f"{embeddings}.position_embedding.weight", 0, where),
        activation=tower.activation,
        pad_token=tower.pad_token,
        projection=_axis(weights, PROJECTION, 0, where) if tower.projected else None,
    )


def _indices(weights: Weights, pattern: str) -> int:
    """How many different numbers the group of the pattern takes."""
    compiled = re.compile(pattern)
    return len({match.group(1) for name in weights if (match := compiled.fullmatch(name))})


def _axis(weights: Weights, name: str, axis: int, where: str) -> int:
    if name not in weights:
        raise ModelFileError(f"{where} lacks {name}")
    shape = weights[name].shape
    if axis >= len(shape) or not shape[axis]:
        raise ModelFileError(f"{where}: {name} has the shape {shape}, which no such network has")
    return shape[axis]


def _has(weights: Weights, module: str) -> bool:
    return any(name.startswith(f"{module}.") for name in weights)


def _depths(weights: Weights) -> dict[str, int]:
    found: dict[str, set[str]] = {}
    for name in weights:
        if match := _TRANSFORMER_BLOCK.fullmatch(name):
            found.setdefault(match.group(1), set()).add(match.group(2))
    return {place: len(cpu_state_dict) for place, cpu_state_dict in sorted(found.items())}


def _only_cross(weights: Weights, level: int, width: int) -> bool:
    weight = weights.get(f"down_blocks.{level}.attentions.0.transformer_blocks.0.attn1.to_k.weight")
    return weight is not None and weight.shape[-1:] != (width,)
