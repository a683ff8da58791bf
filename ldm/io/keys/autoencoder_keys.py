"""Autoencoder: the names of CompVis' single files <-> diffusers' names, which are ours."""

import re
from collections.abc import Iterable, Iterator

from autoencoder.config import AutoencoderConfig
from ldm.io.disk.files import ModelFileError
from ldm.io.keys.rename import inverse, rename
from ldm.io.tensors.weights import LazyTensor, Weights, reshaped

_SAME = ("norm1", "conv1", "norm2", "conv2")
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_ENDS = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
_DOWN_BLOCK = re.compile(r"encoder\.down\.(\d+)\.block\.(\d+)\..+")


def autoencoder_modules(levels: int, blocks: int) -> dict[str, str]:
    """Module name in a single file, without `first_stage_model.` -> our module name. blocks: per encoder level."""
    modules = dict(_ENDS)
    for half in ("encoder", "decoder"):
        modules |= {f"{half}.conv_in": f"{half}.conv_in", f"{half}.norm_out": f"{half}.conv_norm_out"}
        modules[f"{half}.conv_out"] = f"{half}.conv_out"
        modules |= {
            f"{half}.mid.attn_1.{old}": f"{half}.mid_block.attentions.0.{new}" for old, new in _ATTENTION.items()
        }
    for file, ours in _resnets(levels, blocks):
        modules |= {f"{file}.{leaf}": f"{ours}.{leaf}" for leaf in _SAME}
        modules[f"{file}.nin_shortcut"] = f"{ours}.conv_shortcut"
    for level in range(levels - 1):
        up = levels - 1 - level
        modules[f"encoder.down.{level}.downsample.conv"] = f"encoder.down_blocks.{level}.downsamplers.0.conv"
        modules[f"decoder.up.{up}.upsample.conv"] = f"decoder.up_blocks.{level}.upsamplers.0.conv"
    return modules


def _resnets(levels: int, blocks: int) -> Iterator[tuple[str, str]]:
    for half in ("encoder", "decoder"):
        yield f"{half}.mid.block_1", f"{half}.mid_block.resnets.0"
        yield f"{half}.mid.block_2", f"{half}.mid_block.resnets.1"
    for level in range(levels):
        for i in range(blocks):
            yield f"encoder.down.{level}.block.{i}", f"encoder.down_blocks.{level}.resnets.{i}"
        for i in range(blocks + 1):
            yield f"decoder.up.{level}.block.{i}", f"decoder.up_blocks.{levels - 1 - level}.resnets.{i}"


def seen_levels(names: Iterable[str], where: str) -> tuple[int, int]:
    """Levels and residual blocks a level that the names of a file show.

    Raises:
        ModelFileError: they show none.
    """
    found = {tuple(map(int, match.groups())) for name in names if (match := _DOWN_BLOCK.fullmatch(name))}
    levels = len({level for level, _ in found})
    if not found or len(found) % levels:
        raise ModelFileError(f"{where}: its autoencoder has no encoder known here")
    return levels, len(found) // levels


def to_ours(weights: Weights, where: str) -> tuple[dict[str, LazyTensor], list[str]]:
    """Weights without `first_stage_model.` -> weights by our names, and the names that no autoencoder has."""
    modules = autoencoder_modules(*seen_levels(weights, where))
    ours, unknown = {}, []
    for name, weight in weights.items():
        new = rename(name, modules)
        if new is None:
            unknown.append(name)
        else:  # attention is 1x1 convolutions there and linear layers here
            ours[new] = reshaped(weight, weight.shape[:2]) if _is_projection(new) and len(weight.shape) == 4 else weight
    return ours, unknown


def to_file(weights: Weights, config: AutoencoderConfig) -> dict[str, LazyTensor]:
    """The inverse of `to_ours`."""
    modules = inverse(autoencoder_modules(len(config.widths), config.blocks_per_level))
    file = {}
    for name, weight in weights.items():
        new = rename(name, modules)
        if new is None:
            raise ValueError(f"{name} has no place in a single file")
        file[new] = reshaped(weight, (*weight.shape, 1, 1)) if _is_projection(name) else weight
    return file


def _is_projection(name: str) -> bool:
    return ".attentions." in name and name.endswith(".weight") and ".group_norm." not in name
