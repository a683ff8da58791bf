"""safetensors files, tensor by tensor: read where they lie, written one after the other."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.io.disk.files import ModelFileError, replace_file
from ldm.io.tensors.weights import LazyTensor, Weights

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def read_safetensors(path: Path) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """The weights of a file, by name, and its metadata. Reads only the header; the file is mapped, not copied.

    A weight that is read as it is stored is a view of the file; in another dtype it is read and converted alone,
    so that memory never holds more than the result and one tensor.

    Raises:
        ModelFileError: a file that is truncated, damaged, or has a type of numbers that is not known here.
    """
    from safetensors import SafetensorError, safe_open

    try:
        mapped = safe_open(path, framework="pt")
        names = set(mapped.keys())
        with open(path, "rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(length))
    except FileNotFoundError:
        raise ModelFileError(f"{path} is missing; check the name") from None
    except (SafetensorError, ValueError, RecursionError, struct.error) as error:
        size = path.stat().st_size
        raise ModelFileError(
            f"{path} is truncated, damaged or not safetensors ({size:,} bytes: {error}); copy or download it again"
        ) from None
    metadata = header.pop("__metadata__", None) or {}
    if names != header.keys():
        raise ModelFileError(f"{path} is damaged: its header names tensors twice; copy or download it again")
    weights = {name: _weight(path, mapped, name, entry, 8 + length) for name, entry in header.items()}
    return weights, metadata


def _weight(path: Path, mapped: Any, name: str, entry: Mapping[str, Any], base: int) -> LazyTensor:
    if entry["dtype"] not in _DTYPES:
        raise ModelFileError(
            f"{path}: {name} is stored as {entry['dtype']}, which is not supported; use a file in {', '.join(_DTYPES)}"
        )
    stored, shape, (start, end) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]

    def read(dtype: torch.dtype | None) -> Tensor:
        if dtype is None or dtype == stored:
            return mapped.get_tensor(name)
        # Not through the mapping: its pages would stay in memory beside the converted weights.
        raw = torch.empty(end - start, dtype=torch.uint8)
        with open(path, "rb") as file:
            file.seek(base + start)
            if file.readinto(raw.numpy().data) != end - start:
                raise ModelFileError(f"{path} ends inside {name}; it was changed while it was read")
        return raw.view(stored).reshape(shape).to(dtype)

    return LazyTensor(shape, stored, read)


def write_safetensors(
    path: Path, weights: Weights, metadata: Mapping[str, str], advance: Callable[[int], None] = lambda size: None
) -> None:
    """Write weights to a file, atomically, one in memory at a time.

    Args:
        path: of the file.
        weights: by name.
        metadata: of the header.
        advance: gets the bytes of each weight when it is done.

    Raises:
        OSError: disk full or no permission; names `path`.
    """
    # The order of safetensors itself: types that need alignment first, so that every tensor can be mapped.
    names = sorted(weights, key=lambda name: (-weights[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name in names:
        weight = weights[name]
        start, end = end, end + weight.size
        header[name] = {"dtype": _NAMES[weight.dtype], "shape": list(weight.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with replace_file(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            file.write(_bytes(name, weights[name]))
            advance(weights[name].size)


def _bytes(name: str, weight: LazyTensor) -> memoryview:
    tensor = weight.read(None)
    if tuple(tensor.shape) != weight.shape or tensor.dtype != weight.dtype:
        raise ModelFileError(f"{name} is {tuple(tensor.shape)} {tensor.dtype}, not {weight.shape} {weight.dtype}")
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
