"""Deltas -> an adapter file under the names that kohya, diffusers or PEFT give things."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import torch
from safetensors.torch import save
from torch import Tensor

from ldm.adapters.lora.deltas import Decomposed, Delta, Hadamard, LowRank, Sum, Whole
from ldm.adapters.lora.layers import BIAS, TEXT, TEXT_2, TOWERS, UNET
from ldm.io.disk.files import write_file, write_folder
from ldm.io.lora.adapter_config import DIFFUSERS_KEY
from ldm.io.lora.container import PEFT_CONFIG, PEFT_WEIGHTS
from ldm.io.lora.names import KOHYA_PREFIXES, PEFT_PREFIX, kohya_name
from ldm.naming import look_up

STYLES = ("kohya", "diffusers", "peft")


def save_lora(
    path: str | Path,
    deltas: Mapping[str, Delta],
    style: str = "kohya",
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write deltas by address (`unet.mid_block.attentions.0.proj_in`), atomically; `read_lora` gives the same back.

    Args:
        path: of the file, or of the folder for `peft`.
        deltas: by address.
        style: `kohya` is a file with an alpha for every layer, which every program reads. `diffusers` is a file whose
            header holds the alphas where they are not the ranks; programs other than diffusers and this one overlook
            them. `peft` is a folder with one subfolder a network, for `PeftModel.from_pretrained`.
        dtype: of the factors in the file; None keeps theirs.
        metadata: more for the header of the file (not for `peft`).

    Raises:
        ValueError: no delta, an unknown style or network, or a kind of delta that the style has no words for.
        OSError: the file cannot be written; an old one is still there.
    """
    look_up("style", style, dict.fromkeys(STYLES))
    path, towers = Path(path), _by_tower(deltas)
    if dtype is not None:
        towers = {tower: {name: _cast(x, dtype) for name, x in layers.items()} for tower, layers in towers.items()}
    if style == "peft":
        with write_folder(path) as folder:
            for tower, layers in towers.items():
                # transformers 5.6 took `text_model` out of CLIPTextModel, not out of the second one, ...WithProjection.
                lost = "text_model." if tower == TEXT else ""
                factors = _peft_factors({name.removeprefix(lost): delta for name, delta in layers.items()}, style)
                factors = {f"{PEFT_PREFIX}{key}": value for key, value in factors.items()}
                (folder / tower).mkdir()
                (folder / tower / PEFT_WEIGHTS).write_bytes(save(factors, {"format": "pt"}))
                (folder / tower / PEFT_CONFIG).write_text(json.dumps(_config_file(tower, layers), indent=2) + "\n")
        return
    if style == "kohya":
        tensors, header = _kohya_factors(towers), _kohya_header(deltas)
    else:
        tensors, header = {}, {}
        for tower, layers in towers.items():
            tensors |= {f"{tower}.{key}": value for key, value in _peft_factors(layers, style).items()}
        if any(delta.scale != 1 for delta in deltas.values()):
            fields = {
                f"{tower}.{k}": v for tower, layers in towers.items() for k, v in _settings(tower, layers).items()
            }
            header[DIFFUSERS_KEY] = json.dumps(fields, indent=2, sort_keys=True)
    write_file(path, save(tensors, {"format": "pt", **header, **(metadata or {})}))


def _by_tower(deltas: Mapping[str, Delta]) -> dict[str, dict[str, Delta]]:
    if not deltas:
        raise ValueError("there is no delta to save")
    towers: dict[str, dict[str, Delta]] = {}
    for address, delta in deltas.items():
        tower, _, name = address.partition(".")
        look_up("network", tower, dict.fromkeys(TOWERS))
        towers.setdefault(tower, {})[name] = delta
    return towers


def _factors(delta: Sum) -> dict[str, Tensor]:
    return {name: _stored(x) for name, x in vars(delta).items() if isinstance(x, Tensor)}


def _stored(x: Tensor) -> Tensor:
    return x.detach().cpu().contiguous()


@overload
def _cast(delta: Sum, dtype: torch.dtype) -> Sum: ...
@overload
def _cast(delta: Delta, dtype: torch.dtype) -> Delta: ...
def _cast(delta: Delta, dtype: torch.dtype) -> Delta:
    if isinstance(delta, Decomposed):
        return Decomposed(_cast(delta.delta, dtype), delta.magnitude.to(dtype))
    factors: dict[str, Any] = {name: value.to(dtype) for name, value in _factors(delta).items()}
    return replace(delta, **factors)


def _kohya_factors(towers: Mapping[str, Mapping[str, Delta]]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for tower, layers in towers.items():
        prefix = KOHYA_PREFIXES[tower][1 if tower == TEXT and TEXT_2 in towers else 0]
        for name, delta in layers.items():
            if isinstance(delta, Decomposed):
                magnitude, delta = _stored(delta.magnitude), delta.delta
                if magnitude.ndim == 1:
                    magnitude = magnitude.reshape(-1, *[1] * (delta.product("meta").ndim - 1))
                tensors[f"{kohya_name(prefix, name)}.dora_scale"] = magnitude
            if isinstance(delta, Whole):
                key = kohya_name(prefix, name.removesuffix(BIAS))
                tensors[f"{key}.{_whole_part(name, layers)}"] = _stored(delta.values * delta.scale)
                continue
            key = kohya_name(prefix, name)
            if delta.rank is None and delta.scale != 1:
                raise ValueError(
                    f"{tower}.{name}: whole Kronecker factors have no alpha in kohya's files; scale must be 1"
                )
            tensors |= {f"{key}.{_kohya_part(delta, part)}": value for part, value in _factors(delta).items()}
            tensors[f"{key}.alpha"] = torch.tensor(_alpha(delta), dtype=torch.float32)
    return tensors


def _whole_part(name: str, layers: Mapping[str, Delta]) -> str:
    """LyCORIS' word for a whole change: of the weight or bias of a norm, or of a layer."""
    weight = layers.get(name.removesuffix(BIAS))
    of_norm = isinstance(weight, Whole) and weight.values.ndim == 1
    if name.endswith(BIAS):
        return "b_norm" if of_norm else "diff_b"
    return "w_norm" if of_norm else "diff"


def _kohya_part(delta: Sum, part: str) -> str:
    if isinstance(delta, LowRank):
        return f"lora_{part}.weight"
    return f"hada_{part}" if isinstance(delta, Hadamard) else f"lokr_{part}"


def _kohya_header(deltas: Mapping[str, Delta]) -> dict[str, str]:
    ranks = {delta.rank for delta in deltas.values() if delta.rank is not None}
    alphas = {_number(_alpha(delta)) for delta in deltas.values() if delta.rank is not None}
    plain = all(isinstance(delta, LowRank) for delta in deltas.values())
    header = {"ss_network_module": "networks.lora" if plain else "lycoris.kohya"}
    if ranks:
        header["ss_network_dim"] = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
        header["ss_network_alpha"] = str(alphas.pop()) if len(alphas) == 1 else "Dynamic"
    return header


def _peft_factors(layers: Mapping[str, Delta], style: str) -> dict[str, Tensor]:
    tensors = {}
    for name, delta in layers.items():
        if not isinstance(delta, LowRank) or delta.mid is not None:
            kind = "a LoRA with lora_mid" if isinstance(delta, LowRank) else type(delta).__name__
            raise ValueError(f"{name} is {kind}, for which style={style!r} has no words; use style='kohya'")
        factors = _factors(delta)
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = factors["down"], factors["up"]
    return tensors


def _settings(tower: str, layers: Mapping[str, Delta]) -> dict[str, Any]:
    """PEFT's rank, alpha and exceptions from them. Names of text layers fit with and without `text_model`."""
    names = {name: name if tower == UNET else name.removeprefix("text_model.") for name in layers}
    ranks = {names[name]: delta.rank for name, delta in layers.items()}
    alphas = {names[name]: _number(_alpha(delta)) for name, delta in layers.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
        "target_modules": sorted(ranks),
    }


def _config_file(tower: str, layers: Mapping[str, Delta]) -> dict[str, Any]:
    fixed = {"peft_type": "LORA", "base_model_name_or_path": None, "inference_mode": True, "bias": "none"}
    return {**fixed, **_settings(tower, layers)}


def _alpha(delta: Delta) -> float:
    return delta.scale * (delta.rank or 1)


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value
