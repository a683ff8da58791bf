"""U-Net: the names of CompVis' single files <-> diffusers' names, which are ours. Generated from the network's plan."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ldm.io.disk.files import ModelFileError
from ldm.networks.unet.config import UNetConfig

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ENDS = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb": "class_embedding",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
EMA = "model_ema.diffusion_model"
"""What the name of every averaged weight begins with."""
_INPUT = re.compile(r"input_blocks\.(\d+)\.(\d+)\.(.+)")


@dataclass(frozen=True)
class UNetPlan:
    """The structure that numbers the blocks: residual blocks a level, and the levels (finest first) with attention."""

    blocks: int
    attention: tuple[bool, ...]

    @classmethod
    def of(cls, config: UNetConfig) -> "UNetPlan":
        """The plan of a config.

        Raises:
            ValueError: a middle without attention, which these files cannot have.
        """
        if not config.mid_transformer_layers:
            raise ValueError("mid_transformer_layers=0: single files have no layout for it; keep the model a folder")
        return cls(config.blocks_per_level, tuple(depth > 0 for depth in config.transformer_layers))

    @classmethod
    def seen_in(cls, names: Iterable[str], where: str) -> "UNetPlan":
        """The plan that the names of a file (`input_blocks.1.0.in_layers.0.weight`) show.

        Raises:
            ModelFileError: they show none; names `where`.
        """
        found: dict[int, set[str]] = {}
        for name in names:
            if match := _INPUT.fullmatch(name):
                number, place, rest = match.groups()
                what = "down" if rest.startswith("op.") else "attention" if place == "1" else "resnet"
                found.setdefault(int(number), set()).add(what)
        kinds = [found[number] for number in sorted(found)]
        steps = [i for i, kind in enumerate(kinds) if "down" in kind]
        levels, inner = len(steps) + 1, len(kinds) - 1 - len(steps)
        if inner < levels or inner % levels or sorted(found) != list(range(len(found))):
            raise ModelFileError(
                f"{where}: its {len(kinds)} input_blocks with {len(steps)} downsamplings are no U-Net known here"
            )
        blocks = inner // levels
        attention = tuple("attention" in kinds[1 + level * (blocks + 1)] for level in range(levels))
        return cls(blocks, attention)


def unet_modules(plan: UNetPlan) -> dict[str, str]:
    """Module name in a single file, without `model.diffusion_model.` -> our module name, for every module with weights.

    Transformers are one entry each: the names inside them are the same.
    """
    modules = dict(_ENDS)
    for file, ours, kind in _blocks(plan):
        if kind == "resnet":
            modules |= {f"{file}.{leaf}": f"{ours}.{name}" for leaf, name in _RESNET.items()}
        else:
            modules[file] = ours
    return modules


def _blocks(plan: UNetPlan) -> Iterator[tuple[str, str, str]]:
    levels, number = len(plan.attention), 1
    for level, attention in enumerate(plan.attention):
        for i in range(plan.blocks):
            yield f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{i}", "resnet"
            if attention:
                yield f"input_blocks.{number}.1", f"down_blocks.{level}.attentions.{i}", "transformer"
            number += 1
        if level < levels - 1:
            yield f"input_blocks.{number}.0.op", f"down_blocks.{level}.downsamplers.0.conv", "convolution"
            number += 1
    yield "middle_block.0", "mid_block.resnets.0", "resnet"
    yield "middle_block.1", "mid_block.attentions.0", "transformer"
    yield "middle_block.2", "mid_block.resnets.1", "resnet"
    number = 0
    for level, attention in enumerate(reversed(plan.attention)):
        for i in range(plan.blocks + 1):
            yield f"output_blocks.{number}.0", f"up_blocks.{level}.resnets.{i}", "resnet"
            if attention:
                yield f"output_blocks.{number}.1", f"up_blocks.{level}.attentions.{i}", "transformer"
            if i == plan.blocks and level < levels - 1:
                place = 2 if attention else 1
                yield f"output_blocks.{number}.{place}.conv", f"up_blocks.{level}.upsamplers.0.conv", "convolution"
            number += 1


_WORDS = re.compile(
    r"((?:in|out)put_blocks|middle_block|transformer_blocks|time_embed|label_emb|(?:in|out|emb)_layers|"
    r"skip_connection|to_(?:q|k|v|out)|proj_in|proj_out|proj|attn[12]|norm[123]?|ff|net|conv|op|out|weight|bias)(\d*)"
)


def name_of_ema(name: str) -> str:
    """The inverse of `ema_name`: dots again between words and numbers, for every name that a U-Net has."""
    words = []
    for word, digits in _WORDS.findall(name.removeprefix(EMA)):
        # A block's number and a place in it, of one digit, stand side by side; elsewhere there is one number.
        pair = digits if word in ("input_blocks", "output_blocks", "label_emb") and len(digits) > 1 else ""
        words += [word, pair[:-1], pair[-1]] if pair else [word, digits]
    return ".".join(word for word in words if word)


def ema_name(name: str) -> str:
    """How the moving average of a U-Net weight is called: `model_ema.` and the whole name without its dots."""
    return EMA + name.replace(".", "")
