"""Restorers as folders: `config.json` and `diffusion_pytorch_model.safetensors`, both ways. The format is ours."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from ldm.io.disk.files import ModelFileError, read_json
from ldm.io.folder.field_types import RESTORER_TYPES, check_types
from ldm.io.folder.folder_weights import STEM, folder_weights, write_network
from ldm.io.tensors.load_weights import load_weights
from ldm.naming import nearest
from ldm.networks.restorer.config import RestorerConfig
from ldm.networks.restorer.model import Restorer

CLASS_NAME = "Restorer"


def load_restorer(path: Path, dtype: torch.dtype = torch.float32) -> Restorer:
    """Read what `save_restorer` wrote: in eval mode, channels_last, without gradients.

    Raises:
        ModelFileError: a file is missing, damaged, or not a restorer's.
        ValueError: `config.json` holds an impossible shape.
    """
    config = read_restorer_config(path)
    network = load_weights(lambda: Restorer(config), folder_weights(path, STEM), str(path), dtype)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def save_restorer(restorer: Restorer, folder: Path, dtype: torch.dtype | None = torch.float32) -> None:
    """Write a restorer into an existing folder. dtype: of the weights in the file; None keeps theirs."""
    write_network(restorer, folder, {"_class_name": CLASS_NAME, **asdict(restorer.config)}, dtype)


def is_restorer(folder: Path) -> bool:
    """Whether a folder says that it is one."""
    path = folder / "config.json"
    return path.is_file() and read_json(path).get("_class_name") == CLASS_NAME


def read_restorer_config(folder: Path) -> RestorerConfig:
    """The shape of the restorer in a folder. Raises as `load_restorer`."""
    path = folder / "config.json"
    document = read_json(path)
    if document.pop("_class_name", None) != CLASS_NAME:
        raise ModelFileError(f"{path} does not describe a restorer; name the folder that a training exported")
    known = [field.name for field in fields(RestorerConfig)]
    for name in document:
        if name not in known:
            raise ModelFileError(f"{path}: unknown field {name}; {nearest(name, known)}")
    check_types(document, RESTORER_TYPES, str(path))
    settings: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in document.items()}
    return RestorerConfig(**settings)
