"""safetensors files, tensor by tensor: read where they lie, written one after the other."""

import json
import logging
import struct
from collections.abc import Callable, Mapping
from functools import cache
from io import BufferedReader
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.io.disk.files import ModelFileError, replace_file
from ldm.io.tensors.weights import LazyTensor, Weights
from ldm.naming import shown

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
_LONGEST_HEADER = 100_000_000  # bytes, as the format has it
_MOST_AXES = 64
_PART = 2**20  # bytes that are read at a time
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_log = logging.getLogger(__name__)


def read_safetensors(path: Path, mapped: bool = True) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """The weights of a file, by name, and its metadata. Reads only the header.

    A weight that is read as it is stored is a view of the mapped file; in another dtype it is read and converted alone,
    so that memory never holds more than the result and one tensor. Metadata that is no text, which the format forbids
    and which says nothing of the weights, is read as JSON, with a warning.

    Args:
        path: of the file.
        mapped: False copies what is read into memory, so that the file may be written over afterwards.

    Raises:
        ModelFileError: a file that is truncated, damaged, or has a type of numbers that is not known here.
    """
    try:
        size = path.stat().st_size
        header, base = _read_header(path, size)
    except FileNotFoundError:
        raise ModelFileError(f"{path} is missing; copy or download the model again") from None
    except (_Damaged, ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{path} is truncated, damaged or not safetensors ({size:,} bytes: {error}); copy or download it again"
        ) from None
    metadata = header.pop("__metadata__", None) or {}
    map_file = cache(lambda: torch.UntypedStorage.from_file(str(path), False, size)) if mapped else None
    weights = {name: _weight(path, name, entry, base, map_file) for name, entry in header.items()}
    return weights, _texts(path, metadata)


class _Damaged(Exception):
    """What is wrong with a header."""


def _read_header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    """The header of a file of `size` bytes, whose entries cover the rest of it, and where that rest begins."""
    if not path.is_file():
        raise _Damaged("it is no regular file")
    with open(path, "rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= min(size - 8, _LONGEST_HEADER):
            raise _Damaged("it does not begin with the length of a header")
        header = json.loads(file.read(length).decode(), object_pairs_hook=_once)
    if not isinstance(header, dict):
        raise _Damaged("its header is no object")
    if not isinstance(header.get("__metadata__") or {}, dict):
        raise _Damaged("its metadata is no object")
    end = 0
    entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
    for name, entry in entries:
        if not _is_entry(entry):
            raise _Damaged(f"its header says of {name} what is said of no tensor")
    for name, entry in sorted(entries, key=lambda pair: pair[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        if first != end:
            raise _Damaged(f"{name} begins at byte {first} and not at {end}")
        end = last
    if end != size - 8 - length:
        raise _Damaged(f"its tensors end at byte {8 + length + end:,}")
    return header, 8 + length


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Damaged("its header names something twice")
    return found


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(number) is int and number >= 0 for number in numbers):
            return False
    if len(offsets) != 2 or len(shape) > _MOST_AXES:
        return False
    stored = _DTYPES.get(entry["dtype"])
    return stored is None or offsets[1] - offsets[0] == prod(shape) * stored.itemsize


def _texts(path: Path, metadata: dict[str, Any]) -> dict[str, str]:
    for name, value in metadata.items():
        if not isinstance(value, str):
            _log.warning(
                "%s: its metadata entry %s=%s is no text, as the format wants it; the weights are whole and are read",
                *(path, shown(name), shown(value)),
            )
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}


def _weight(
    path: Path, name: str, entry: Mapping[str, Any], base: int, map_file: Callable[[], Any] | None
) -> LazyTensor:
    """A tensor that begins `base` bytes and its offset into the file; `map_file` maps it whole, None is not to map."""
    if entry["dtype"] not in _DTYPES:
        raise ModelFileError(
            f"{path}: {name} is stored as {entry['dtype']}, which is not supported; use a file in {', '.join(_DTYPES)}"
        )
    stored, shape, (start, end) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
    aligned = (base + start) % stored.itemsize == 0  # old writers did not pad the header

    def read(dtype: torch.dtype | None) -> Tensor:
        if map_file is not None and aligned and dtype in (None, stored):
            whole = torch.empty(0, dtype=torch.uint8).set_(map_file())
            return whole[base + start : base + end].view(stored).reshape(shape)
        # Not through the mapping: its pages would stay in memory beside the converted weights.
        with open(path, "rb") as file:
            file.seek(base + start)
            if (weight := _converted(file, stored, shape, dtype or stored)) is None:
                raise ModelFileError(f"{path} ends inside {name}; it was changed while it was read")
        return weight

    return LazyTensor(shape, stored, read)


def _converted(file: BufferedReader, stored: torch.dtype, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """A tensor that begins where the file is, by parts that fit the caches; None where the file ends before."""
    weight = torch.empty(shape, dtype=dtype)
    parts = weight.view(-1).split(_PART // stored.itemsize) if weight.numel() else ()
    room = torch.empty(min(_PART, weight.numel() * stored.itemsize), dtype=torch.uint8)
    for part in parts:
        raw = part.view(torch.uint8) if dtype == stored else room[: part.numel() * stored.itemsize]
        if file.readinto(raw.numpy().data) != raw.numel():
            return None
        if dtype != stored:
            part.copy_(raw.view(stored))
    return weight


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
