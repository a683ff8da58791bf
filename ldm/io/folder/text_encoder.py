"""Text encoders as folders: `text_encoder` and `tokenizer`, and SDXL's `text_encoder_2` and `tokenizer_2`."""

from collections.abc import Mapping
from pathlib import Path

import torch

from conditioning.clip.clip_text import ClipText
from conditioning.clip.pair import ClipTextEncoder, clip_encoder
from conditioning.clip.transformer import ClipTextConfig, ClipTextModel
from ldm.io.disk.files import ModelFileError, read_json, write_json
from ldm.io.folder.field_types import TEXT_ENCODER_TYPES, check_types
from ldm.io.folder.folder_weights import folder_weights
from ldm.io.folder.tokenizer import load_tokenizer
from ldm.io.keys.text_keys import PROJECTION, from_clip, in_memory_names, on_disk_name
from ldm.io.tensors.load_weights import load_weights
from ldm.io.tensors.safetensors_file import write_safetensors
from ldm.io.tensors.weights import cast, in_memory
from ldm.naming import shown

PLACES = ("text_encoder", "text_encoder_2")
"""Folders of text encoders, in the order in which their states are joined."""
_CLASSES = ("CLIPTextModel", "CLIPTextModelWithProjection")


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
        tower.tokenizer.save(path / tokenizer_of(place))
        state = tower.model.state_dict()
        weights = {on_disk_name(name): cast(in_memory(value), dtype) for name, value in state.items()}
        write_safetensors(path / place / "model.safetensors", weights, {})
        write_json(path / place / "config.json", tower.model.config.to_fields(tower.model.text_projection is not None))


def tokenizer_of(place: str) -> str:
    """The folder of the tokenizer that belongs to the text encoder in folder `place`."""
    return place.replace("text_encoder", "tokenizer")


def class_name(tower: ClipText) -> str:
    """Transformers' class of a tower."""
    return _CLASSES[tower.model.text_projection is not None]


def _load_model(folder: Path, name: str, dtype: torch.dtype, variant: str | None) -> ClipTextModel:
    file, projected = folder / "config.json", name == _CLASSES[1]
    fields = read_json(file)
    check_types(fields, TEXT_ENCODER_TYPES, str(file))
    try:
        config = ClipTextConfig.from_fields(fields)
    except ValueError as error:
        raise ModelFileError(f"{file}: {error}") from None
    weights, unknown = from_clip(folder_weights(folder, "model", variant))
    if left := [each for each in unknown if not each.endswith("position_ids")]:  # a constant that old files carry along
        raise ModelFileError(f"{folder}: {left[0]} has no place in a {name}")
    if not projected:
        weights.pop(PROJECTION, None)
    return load_weights(lambda: ClipTextModel(config, projected), in_memory_names(weights), str(folder), dtype)
