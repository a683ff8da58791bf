"""A network in a folder of a model: `config.json`, and weights in one file or in shards."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ldm.io.disk.files import find_weights, write_json
from ldm.io.tensors.load_weights import cpu_state_dict
from ldm.io.tensors.safetensors_file import write_safetensors
from ldm.io.tensors.tensor_file import open_tensors
from ldm.io.tensors.weights import LazyTensor, cast, in_memory

STEM = "diffusion_pytorch_model"
"""What diffusers calls the weights of a network."""


def folder_weights(folder: Path, stem: str, variant: str | None = None) -> dict[str, LazyTensor]:
    """The weights `stem` in `folder`, by name, still where they lie; see `find_weights`. Raises ModelFileError."""
    found: dict[str, LazyTensor] = {}
    for path in find_weights(folder, stem, variant):
        found |= open_tensors(path).weights
    return found


def part_of(path: Path, name: str) -> Path:
    """The folder `name` of a model folder, or `path` itself where that is the part already."""
    return path if (path / "config.json").is_file() and not (path / name).is_dir() else path / name


def write_network(
    network: nn.Module, folder: Path, fields: Mapping[str, Any], dtype: torch.dtype | None, stem: str = STEM
) -> None:
    """Write `config.json` and the weights of a network, tensor by tensor. dtype: in the file; None keeps theirs."""
    write_json(folder / "config.json", dict(fields))
    weights = {name: cast(in_memory(value), dtype) for name, value in cpu_state_dict(network).items()}
    write_safetensors(folder / f"{stem}.safetensors", weights, {})
