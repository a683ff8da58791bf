"""An adapter file -> its deltas, by the layers' names in the file."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.adapters.lora.deltas import Decomposed, Delta, Hadamard, Kronecker, LowRank, Sum, Whole
from ldm.io.disk.files import ModelFileError
from ldm.io.lora.adapter_config import AdapterConfig, header_configs, read_config
from ldm.io.lora.container import PEFT_CONFIG, Container, open_containers
from ldm.io.lora.lokr import scale_of_whole
from ldm.io.lora.names import BUNDLED, Factor, parse_key, style_of

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
_AXES = {"dora_scale": (1, 2, 4), "magnitude": (1, 2, 4), "diff": (1, 2, 4)}
"""How many axes a part may have; factors have 2 or 4."""
_MAGNITUDES = ("dora_scale", "magnitude")


@dataclass(frozen=True)
class LoraFile:
    """The contents of an adapter file.

    Attributes:
        style: kohya, comfyui, diffusers or peft.
        deltas: by the layer's name in the file.
        strangers: keys that belong to no adapter.
        embeddings: textual inversions in the file, each as a file of its own would hold it, by their words.
        notes: what had to be decided where the file does not say it.
        metadata: of the safetensors header.
    """

    path: Path
    style: str
    deltas: Mapping[str, Delta]
    strangers: tuple[str, ...]
    metadata: Mapping[str, str]
    embeddings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_lora(path: Path) -> LoraFile:
    """Read a `.safetensors` file, a tensors-only pickle, or a PEFT folder; factors keep their type, fp8 to fp64.

    The scale of a layer is alpha / rank. alpha is the layer's own tensor, else PEFT's (in `adapter_config.json` or in
    the header of diffusers' files), else the rank.

    Raises:
        ModelFileError: damage, or a kind of adapter that is not supported; names the file and the key.
    """
    containers = open_containers(path)
    embeddings: dict[str, dict[str, Any]] = {}
    deltas: dict[str, Delta] = {}
    strangers: list[str] = []
    notes: set[str] = set()
    for container in containers:
        layers, others = _layers(container)
        others = [key for key in others if not _take_embedding(embeddings, key, container.tensors[key])]
        configs = _configs(container)
        prefix = f"{container.tower}." if container.tower else ""
        deltas |= {prefix + stem: _delta(container, configs, notes, stem, parts) for stem, parts in layers.items()}
        strangers += others
    if not deltas:
        raise ModelFileError(f"{path} holds no LoRA ({_what(strangers)}); name a LoRA file")
    first = containers[0]
    style = "peft" if first.config is not None else style_of(key for one in containers for key in one.tensors)
    return LoraFile(path, style, deltas, tuple(strangers), first.metadata, embeddings, tuple(sorted(notes)))


def _take_embedding(embeddings: dict[str, dict[str, Any]], key: str, value: Tensor) -> bool:
    """Put the tensor of a bundled embedding to the others of its word; False for any other tensor."""
    if not (match := BUNDLED.fullmatch(key)):
        return False
    content = embeddings.setdefault(match["name"], {})
    if match["word"] is None:
        content[match["part"]] = value
    else:
        content.setdefault("string_to_param", {})[match["word"]] = value
    return True


def _layers(container: Container) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """The tensors of every layer by part, and the keys that belong to none."""
    layers: dict[str, dict[str, Tensor]] = {}
    strangers = []
    for key, value in container.tensors.items():
        factor = parse_key(key)
        if isinstance(factor, str):
            raise ModelFileError(
                f"{container.path}: {key} is {factor}, which is not supported; LoRA, LoCon, LoHa, LoKr, DoRA and "
                "whole changes are"
            )
        if not isinstance(factor, Factor):
            strangers.append(key)
        elif factor.part in layers.setdefault(factor.stem, {}):
            raise ModelFileError(f"{container.path}: {key} is there under two names; copy or download it again")
        else:
            _check(container.path, key, factor.part, value)
            layers[factor.stem][factor.part] = value
    return layers, strangers


def _check(path: Path, key: str, part: str, value: Tensor) -> None:
    if part == "alpha":
        if value.numel() != 1 or value.dtype.is_complex or not math.isfinite(value.item()):
            raise ModelFileError(f"{path}: {key} is no single finite number")
        return
    if value.dtype not in _DTYPES:
        kind = str(value.dtype).removeprefix("torch.")
        raise ModelFileError(f"{path}: {key} is {kind}, which is not supported; floating point of 8 to 64 bits is")
    if value.ndim not in _AXES.get(part, (2, 4)) or not value.numel():
        raise ModelFileError(f"{path}: {key} has shape {tuple(value.shape)}, which no factor of a LoRA has")
    if not bool(torch.isfinite(value.float()).all()):
        raise ModelFileError(f"{path}: {key} holds numbers that are not finite; the LoRA is broken")


def _delta(
    container: Container,
    configs: Mapping[str, AdapterConfig],
    notes: set[str],
    stem: str,
    parts: Mapping[str, Tensor],
) -> Delta:
    delta = _assemble({part: value for part, value in parts.items() if part not in ("alpha", *_MAGNITUDES)})
    if delta is None or len(parts.keys() & set(_MAGNITUDES)) > 1:
        raise ModelFileError(
            f"{container.path}: {stem} is incomplete, it has only {', '.join(sorted(parts))}; copy or download it again"
        )
    delta = replace(delta, scale=_scale(container, configs, notes, stem, delta, parts.get("alpha")))
    for part in parts.keys() & set(_MAGNITUDES):
        # PEFT's are always of outputs, and (1, O, 1, 1) for a convolution.
        return Decomposed(delta, parts[part].flatten() if part == "magnitude" else parts[part])
    return delta


def _scale(
    container: Container,
    configs: Mapping[str, AdapterConfig],
    notes: set[str],
    stem: str,
    delta: Sum,
    alpha: Tensor | None,
) -> float:
    if isinstance(delta, Whole):
        return 1.0
    if alpha is not None:
        if delta.rank is not None:
            return alpha.item() / delta.rank
        assert isinstance(delta, Kronecker) and delta.w2 is not None
        scale, note = scale_of_whole(alpha.item(), delta.w2, container.metadata)
        notes |= {note} - {""}
        return scale
    tower, _, layer = stem.partition(".")
    if tower in configs:
        return configs[tower].scale(layer, delta.rank)
    return configs[""].scale(stem, delta.rank) if "" in configs else 1.0


def _configs(container: Container) -> dict[str, AdapterConfig]:
    """PEFT's settings by network; under the empty name where they are for the whole file."""
    if container.config is None:
        return header_configs(container.metadata, container.path)
    return {"": read_config(container.config, str(container.path.with_name(PEFT_CONFIG)))}


def _assemble(parts: Mapping[str, Tensor]) -> Sum | None:
    """The delta of exactly these factors, or None."""
    names = set(parts)
    factors: dict[str, Any] = {name.removeprefix("hada_").removeprefix("lokr_"): x for name, x in parts.items()}
    if names == {"diff"}:
        return Whole(parts["diff"])
    if {"down", "up"} <= names <= {"down", "up", "mid"}:
        return LowRank(**factors)
    pairs = {f"hada_{w}_{x}" for w in ("w1", "w2") for x in ("a", "b")}
    if names - {"hada_t1", "hada_t2"} == pairs and ("hada_t1" in names) == ("hada_t2" in names):
        return Hadamard(**factors)
    for first in ({"lokr_w1"}, {"lokr_w1_a", "lokr_w1_b"}):
        for second in ({"lokr_w2"}, {"lokr_w2_a", "lokr_w2_b"}, {"lokr_w2_a", "lokr_w2_b", "lokr_t2"}):
            if names == first | second:
                return Kronecker(**factors)
    return None


def _what(strangers: list[str]) -> str:
    return f"its first tensor is {strangers[0]}" if strangers else "it is empty"
