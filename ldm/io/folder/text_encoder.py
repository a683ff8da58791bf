"""Text encoders as folders: `text_encoder` and `tokenizer`, and SDXL's `text_encoder_2` and `tokenizer_2`."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from conditioning.clip.clip_text import ClipText
from conditioning.clip.pair import ClipTextEncoder, clip_encoder
from conditioning.clip.text_hidden_states import text_tower
from ldm.io.disk.files import ModelFileError, read_json
from ldm.io.folder.config_fields import require_one_of
from ldm.io.folder.field_types import TEXT_ENCODER_TYPES, check_types
from ldm.io.folder.folder_weights import folder_weights
from ldm.io.folder.tokenizer import load_tokenizer, save_tokenizer
from ldm.io.keys.text_keys import PROJECTION, from_clip
from ldm.io.tensors.load_weights import load_weights, on_meta
from ldm.io.tensors.safetensors_file import write_safetensors
from ldm.io.tensors.weights import LazyTensor, cast, in_memory
from ldm.naming import one_line, shown

PLACES = ("text_encoder", "text_encoder_2")
"""Folders of text encoders, in the order in which their states are joined."""
_CLASSES = ("CLIPTextModel", "CLIPTextModelWithProjection")
_PREFIX = "text_model."


def towers_by_folder(text: ClipTextEncoder) -> dict[str, ClipText]:
    """The towers by the folders that hold them. SDXL's refiner has the second of two alone."""
    places = PLACES[1:] if len(text.towers) == 1 and text.towers[0].penultimate else PLACES
    return dict(zip(places, text.towers, strict=False))


def load_text_encoder(
    path: Path, classes: Mapping[str, str], dtype: torch.dtype, penultimate: bool = False, variant: str | None = None
) -> ClipTextEncoder:
    """The text encoder of a model folder, which may have two towers.

    classes: transformers' class of each tower, by folder. penultimate: see `ClipText`.
    Raises ModelFileError naming the file.
    """
    towers = []
    for place, name in classes.items():
        if name not in _CLASSES:
            raise ModelFileError(f"{path / place}: {shown(name)} is not supported; only {' and '.join(_CLASSES)} are")
        model = _load_model(path / place, name, dtype, variant)
        tokenizer = load_tokenizer(path / tokenizer_of(place), model.config.vocab_size)
        towers.append(ClipText(tokenizer, model, penultimate))
    try:
        return clip_encoder(towers)
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}") from None


def save_text_encoder(text: ClipTextEncoder, path: Path, dtype: torch.dtype | None) -> None:
    """Write all towers and tokenizers into a model folder; the names have `text_model.`, which every reader knows.

    dtype: of the weights in the files; None keeps theirs.
    """
    for place, tower in towers_by_folder(text).items():
        save_tokenizer(tower.tokenizer, path / tokenizer_of(place))
        state = {_PREFIX + name: value for name, value in text_tower(tower.model).state_dict().items()}
        state |= {name: value for name, value in tower.model.state_dict().items() if name == PROJECTION}
        weights = {name: cast(in_memory(value), dtype) for name, value in state.items()}
        write_safetensors(path / place / "model.safetensors", weights, {})
        config = copy.deepcopy(tower.model.config)
        config.architectures = [class_name(tower)]
        config.dtype = torch.float32  # transformers would open it as the file is, diffusers opens the U-Net in fp32
        config.save_pretrained(path / place)


def tokenizer_of(place: str) -> str:
    """The folder of the tokenizer that belongs to the text encoder in folder `place`."""
    return place.replace("text_encoder", "tokenizer")


def class_name(tower: ClipText) -> str:
    """Transformers' class of a tower."""
    return _CLASSES[hasattr(tower.model, "text_projection")]


def _load_model(folder: Path, name: str, dtype: torch.dtype, variant: str | None) -> Any:
    import transformers
    from transformers.activations import ACT2FN

    fields = read_json(folder / "config.json")
    check_types(fields, TEXT_ENCODER_TYPES, str(folder / "config.json"))
    if "hidden_act" in fields:
        require_one_of("hidden_act", fields["hidden_act"], tuple(ACT2FN), str(folder / "config.json"))
    try:
        config = transformers.CLIPTextConfig.from_dict(fields)
    except Exception as error:  # each version has its own
        raise ModelFileError(f"{folder / 'config.json'}: {one_line(str(error), 300)}") from None

    def build() -> nn.Module:
        return getattr(transformers, name)(config)

    weights, unknown = from_clip(folder_weights(folder, "model", variant))
    if left := [each for each in unknown if not each.endswith("position_ids")]:  # a constant that old files carry along
        raise ModelFileError(f"{folder}: {left[0]} has no place in a {name}")
    if name == _CLASSES[0]:
        weights.pop(PROJECTION, None)
    model = load_weights(build, _installed_names(weights, on_meta(build)), str(folder), dtype)
    text_tower(model).embeddings.position_ids = torch.arange(config.max_position_embeddings).expand(1, -1)
    return model


def _installed_names(weights: Mapping[str, LazyTensor], model: nn.Module) -> dict[str, LazyTensor]:
    """By the names of the installed transformers, whose CLIPTextModel has no `text_model.` since 5.6."""
    if any(name.startswith(_PREFIX) for name in model.state_dict()):
        return dict(weights)
    return {name.removeprefix(_PREFIX): weight for name, weight in weights.items()}
