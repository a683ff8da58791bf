"""Text encoders: the two layouts of single files <-> transformers' names with `text_model.`, as on disk.

`clip`: transformers' own names behind a prefix. `open_clip`: OpenCLIP's names, queries, keys and values in one matrix.
"""

import re

from ldm.io.keys.rename import inverse, rename
from ldm.io.tensors.weights import LazyTensor, Weights, row_block, stacked, transposed

_TOP = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_PARTS = ("q_proj", "k_proj", "v_proj")
_OPEN_CLIP_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_IN_PROJ = re.compile(r"attn\.in_proj_(weight|bias)")
_LAYER_NAME = re.compile(r"text_model\.encoder\.layers\.(\d+)\.(.+)")
_SPLIT = re.compile(r"self_attn\.q_proj\.(weight|bias)")
_CLIP_MODULES = ("embeddings.", "encoder.layers.", "final_layer_norm.")
PROJECTION = "text_projection.weight"
_PREFIX = "text_model."


def from_clip(weights: Weights) -> tuple[dict[str, LazyTensor], list[str]]:
    """The `clip` layout without its prefix -> transformers' names, and the names that no text encoder has.

    The oldest files have no `text_model.` in their names.
    """
    ours, unknown = {}, []
    for name, weight in weights.items():
        stem = name.removeprefix("text_model.")
        if stem.startswith(_CLIP_MODULES) and not stem.endswith("position_ids"):
            ours[f"text_model.{stem}"] = weight
        elif name == PROJECTION:
            ours[name] = weight
        else:
            unknown.append(name)
    return ours, unknown


def in_memory_names(weights: Weights) -> dict[str, LazyTensor]:
    """Names on disk -> those of our tower, which has no `text_model.`, as transformers' CLIPTextModel since 5.6."""
    return {name.removeprefix(_PREFIX): weight for name, weight in weights.items()}


def on_disk_name(name: str) -> str:
    """The inverse, for one name; every reader knows `text_model.`."""
    return name if name == PROJECTION else _PREFIX + name


def from_open_clip(weights: Weights) -> tuple[dict[str, LazyTensor], list[str]]:
    """The `open_clip` layout without its prefix -> transformers' names, and the names that no text encoder has."""
    ours: dict[str, LazyTensor] = {}
    unknown = []
    for name, weight in weights.items():
        layer = _OPEN_CLIP_LAYER.fullmatch(name)
        if name in _TOP:
            ours[_TOP[name]] = weight
        elif name == "text_projection" and len(weight.shape) == 2:
            ours[PROJECTION] = transposed(weight)
        elif layer is None:
            unknown.append(name)
        else:
            stem = f"text_model.encoder.layers.{layer.group(1)}"
            if (packed := _IN_PROJ.fullmatch(layer.group(2))) and weight.shape and weight.shape[0] % 3 == 0:
                for i, part in enumerate(_PARTS):
                    ours[f"{stem}.self_attn.{part}.{packed.group(1)}"] = row_block(weight, i, 3)
            elif (leaf := rename(layer.group(2), _LAYER)) is not None:
                ours[f"{stem}.{leaf}"] = weight
            else:
                unknown.append(name)
    return ours, unknown


def to_open_clip(weights: Weights) -> dict[str, LazyTensor]:
    """The inverse of `from_open_clip`.

    Raises:
        ValueError: a name that no text encoder has.
    """
    top, leaves, file = inverse(_TOP), inverse(_LAYER), {}
    for name, weight in weights.items():
        layer = _LAYER_NAME.fullmatch(name)
        if name in top:
            file[top[name]] = weight
        elif name == PROJECTION:
            file["text_projection"] = transposed(weight)
        elif layer is None:
            raise ValueError(f"{name} has no place in a single file")
        else:
            stem, leaf = f"transformer.resblocks.{layer.group(1)}", layer.group(2)
            if split := _SPLIT.fullmatch(leaf):
                three = [weights[name.replace("q_proj", part)] for part in _PARTS]
                file[f"{stem}.attn.in_proj_{split.group(1)}"] = stacked(three)
            elif not leaf.startswith(("self_attn.k_proj.", "self_attn.v_proj.")):
                new = rename(leaf, leaves)
                if new is None:
                    raise ValueError(f"{name} has no place in a single file")
                file[f"{stem}.{new}"] = weight
    return file


def layer_count(weights: Weights) -> int:
    """Layers of a text encoder with transformers' names."""
    return len({match.group(1) for name in weights if (match := _LAYER_NAME.fullmatch(name))})


def without_layer(weights: Weights, layer: int) -> dict[str, LazyTensor]:
    """The text encoder without one of its layers."""
    start = f"text_model.encoder.layers.{layer}."
    return {name: weight for name, weight in weights.items() if not name.startswith(start)}
