"""PEFT's settings of an adapter: `adapter_config.json`, and the same inside the header of diffusers' files."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldm.adapters.lora.layers import TOWERS
from ldm.io.disk.files import ModelFileError

DIFFUSERS_KEY = "lora_adapter_metadata"
"""Where diffusers keeps these settings in a safetensors header, as JSON, each field behind its network's name."""

_KINDS = ("LORA", "LOHA", "LOKR")
_LARGEST = 1e9
# Names, and wildcards that cannot be nested: a file must not be able to keep the pattern matching busy for years.
_PATTERN = re.compile(r"\^?(?:[\w-]|\.\*?|\\\.)+\$?")
_STARS = 4


@dataclass(frozen=True)
class AdapterConfig:
    """Rank and alpha of the layers of one network; patterns are regular expressions for the ends of layers' names."""

    kind: str
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rank_stabilized: bool = False

    def scale(self, layer: str, rank: int | None) -> float:
        """alpha / r, or alpha / sqrt(r) (Kalajdzievski 2023, "rsLoRA").

        Args:
            layer: name of the layer in the file.
            rank: of the factors, None if there is none.
        """
        rank = rank or _of(self.rank_pattern, layer, self.rank)
        return _of(self.alpha_pattern, layer, self.alpha) / (math.sqrt(rank) if self.rank_stabilized else rank)


def read_config(fields: Mapping[str, Any], where: str) -> AdapterConfig:
    """Read PEFT's fields.

    Raises:
        ModelFileError: a field that is not supported; names it and `where`.
    """
    kind = str(fields.get("peft_type") or "LORA").upper()
    if kind not in _KINDS:
        raise ModelFileError(f"{where}: peft_type={kind!r} is not supported; only {', '.join(_KINDS)} are")
    for name in ("lora_bias", "modules_to_save", "trainable_token_indices", "layer_replication"):
        if fields.get(name):
            raise ModelFileError(f"{where}: {name}={fields[name]!r} is not supported; only changes of weights are")
    rank = fields.get("r", 8)
    alpha = fields.get("lora_alpha" if kind == "LORA" else "alpha", 8)
    ranks, alphas = fields.get("rank_pattern") or {}, fields.get("alpha_pattern") or {}
    _check_numbers(where, "r", {"r": rank}, int)
    _check_numbers(where, "lora_alpha" if kind == "LORA" else "alpha", {"alpha": alpha}, (int, float))
    _check_numbers(where, "rank_pattern", ranks, int)
    _check_numbers(where, "alpha_pattern", alphas, (int, float))
    return AdapterConfig(kind, rank, float(alpha), ranks, alphas, bool(fields.get("use_rslora")))


def header_configs(metadata: Mapping[str, str], path: Path) -> dict[str, AdapterConfig]:
    """The settings in a diffusers file's header by network; under the empty name where they are for the whole file."""
    if DIFFUSERS_KEY not in metadata:
        return {}
    try:
        fields = json.loads(metadata[DIFFUSERS_KEY])
    except json.JSONDecodeError as error:
        raise ModelFileError(f"{path}: {DIFFUSERS_KEY} in its header is not valid JSON ({error})") from None
    if not isinstance(fields, dict):
        raise ModelFileError(f"{path}: {DIFFUSERS_KEY} in its header holds {type(fields).__name__}, not an object")
    groups: dict[str, dict[str, Any]] = {}
    for key, value in fields.items():
        tower, _, name = key.partition(".")
        tower, name = (tower, name) if tower in TOWERS else ("", key)
        groups.setdefault(tower, {})[name] = value
    return {tower: read_config(group, f"{path}: {DIFFUSERS_KEY}") for tower, group in groups.items()}


def _of(pattern: Mapping[str, Any], layer: str, default: Any) -> Any:
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", layer):
            return value
    return default


def _check_numbers(where: str, name: str, values: Any, kind: Any) -> None:
    if not isinstance(values, dict):
        raise ModelFileError(f"{where}: {name}={values!r} is not supported; an object of numbers is")
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, kind) or not -_LARGEST < value < _LARGEST:
            raise ModelFileError(f"{where}: {name}={value!r} is no number that it could be")
        if kind is int and value < 1:
            raise ModelFileError(f"{where}: {name}={value} is no rank; 1 is the least")
        if not _PATTERN.fullmatch(key) or key.count("*") > _STARS:
            raise ModelFileError(f"{where}: {name} has the pattern {key!r}; only names of layers and .* are supported")
