"""Upscalers as folders: `config.json` and `model.safetensors`, both ways. The format is ours."""

from dataclasses import asdict, fields
from pathlib import Path

import torch

from ldm.io.disk.files import ModelFileError, read_json, write_folder
from ldm.io.folder.field_types import UPSCALER_TYPES, check_types
from ldm.io.folder.folder_weights import folder_weights, write_network
from ldm.io.tensors.load_weights import load_weights
from ldm.naming import nearest
from ldm.networks.upscaler.config import UpscalerConfig
from ldm.networks.upscaler.model import Upscaler

_CLASS_NAME = "Upscaler"
_STEM = "model"


def load_upscaler(path: Path, dtype: torch.dtype = torch.float32) -> Upscaler:
    """Read what `save_upscaler` wrote: in eval mode, channels_last, without gradients.

    Raises:
        ModelFileError: a file is missing, damaged, or not an upscaler's.
        ValueError: `config.json` holds an impossible shape.
    """
    config = _read_config(path / "config.json")
    network = load_weights(lambda: Upscaler(config), folder_weights(path, _STEM), str(path), dtype)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def save_upscaler(upscaler: Upscaler, folder: Path, dtype: torch.dtype | None = torch.float32) -> None:
    """Write an upscaler into `folder`, atomically. dtype: of the weights in the file; None keeps theirs."""
    with write_folder(folder) as temporary:
        write_network(upscaler, temporary, {"_class_name": _CLASS_NAME, **asdict(upscaler.config)}, dtype, _STEM)


def _read_config(path: Path) -> UpscalerConfig:
    document = read_json(path)
    if document.pop("_class_name", None) != _CLASS_NAME:
        raise ModelFileError(f"{path} does not describe an upscaler; name the folder that `Upscaler.save` wrote")
    known = [field.name for field in fields(UpscalerConfig)]
    for name in document:
        if name not in known:
            raise ModelFileError(f"{path}: unknown field {name}; {nearest(name, known)}")
    check_types(document, UPSCALER_TYPES, str(path))
    return UpscalerConfig(**document)
