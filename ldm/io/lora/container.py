"""Opening adapter files: safetensors, tensors-only pickles, PEFT folders. Nothing in a file is ever run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.adapters.lora.layers import TOWERS
from ldm.io.disk.files import ModelFileError, read_json
from ldm.io.tensors.pickle_file import UnsafePickle, load_pickle
from ldm.io.tensors.safetensors_file import read_safetensors

PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PICKLES = (".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class Container:
    """The content of one file.

    Attributes:
        tower: the network that the file is for where its place says so, else empty.
        metadata: of the safetensors header.
        config: PEFT's `adapter_config.json` beside it, else None.
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    tower: str = ""
    config: dict[str, Any] | None = None


def open_containers(path: Path) -> list[Container]:
    """The file `path`, or the files of a PEFT folder: its own, or those in subfolders called as the networks.

    Raises:
        ModelFileError: a file is missing, damaged, or not safe to open.
    """
    if not path.is_dir():
        return [_open(path)]
    if (path / PEFT_CONFIG).is_file() or (path / PEFT_WEIGHTS).is_file():
        tower = path.name if path.name in TOWERS else ""
        return [_open(path / PEFT_WEIGHTS, tower)]
    folders = [tower for tower in TOWERS if (path / tower / PEFT_CONFIG).is_file()]
    if not folders:
        raise ModelFileError(f"{path} is a folder without {PEFT_CONFIG}; name the LoRA file itself")
    return [_open(path / tower / PEFT_WEIGHTS, tower) for tower in folders]


def _open(path: Path, tower: str = "") -> Container:
    if not path.is_file():
        raise ModelFileError(f"{path} is missing; check the name of the LoRA file")
    config = path.with_name(PEFT_CONFIG)
    fields = read_json(config) if path.name.startswith("adapter_model.") and config.is_file() else None
    if path.suffix.lower() in _PICKLES:
        return Container(path, _read_pickle(path), {}, tower, fields)
    # Not mapped: an adapter is small, and its file may be overwritten while it is in use.
    weights, metadata = read_safetensors(path, mapped=False)
    return Container(path, {name: weight.read(None) for name, weight in weights.items()}, metadata, tower, fields)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = load_pickle(path, mapped=False)  # see `_open`
    except UnsafePickle as error:
        raise ModelFileError(
            f"{path} is a pickle of more than tensors, which asks to run {error.wanted} when opened; "
            "ask for the LoRA as .safetensors"
        ) from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ModelFileError(f"{path} holds {type(content).__name__} where a table of tensors belongs")
    tensors = {}
    for key, value in content.items():
        value = torch.tensor(value) if isinstance(value, int | float) else value
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ModelFileError(f"{path}: {key!r} holds {type(value).__name__} where a tensor belongs")
        tensors[key] = value.detach()
    return tensors
