"""Any file of tensors, known by its first bytes, never by its name."""

from dataclasses import dataclass, field
from pathlib import Path

from ldm.io.disk.files import ModelFileError
from ldm.io.tensors.pickle_file import read_pickle
from ldm.io.tensors.safetensors_file import read_safetensors
from ldm.io.tensors.weights import LazyTensor, in_memory

_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")
_OTHER_STARTS = {
    b"GGUF": "GGUF, weights packed for llama.cpp and its relatives; use the fp16 or fp8 .safetensors of the same model",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`, or download it",
    b"<!DOCTYPE": "a web page, not a model; download the file itself",
    b"<html": "a web page, not a model; download the file itself",
    b"\x89PNG": "a picture, not a model",
}


@dataclass(frozen=True)
class TensorFile:
    """An open file of tensors.

    Attributes:
        format: `safetensors` or `pickle`.
        metadata: what a safetensors header says.
        others: names of entries of a pickle that are no tensors; they are left alone.
    """

    path: Path
    format: str
    weights: dict[str, LazyTensor]
    metadata: dict[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()


def open_tensors(path: Path) -> TensorFile:
    """Open a safetensors file, or a PyTorch pickle of tensors only.

    Raises:
        ModelFileError: anything else, by its name where it has one, or a missing or damaged file.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(24)
    except FileNotFoundError:
        raise ModelFileError(f"{path} is missing; check the name") from None
    except IsADirectoryError:
        raise ModelFileError(f"{path} is a folder, not a file of weights") from None
    if not start:
        raise ModelFileError(f"{path} is truncated: it is empty (0 bytes); copy or download it again")
    for known, what in _OTHER_STARTS.items():
        if start.startswith(known):
            raise ModelFileError(f"{path} is {what}")
    if start[8:9] != b"{" and start.startswith(_PICKLE_STARTS):  # a brace there opens the header of safetensors
        tensors, others = read_pickle(path)
        return TensorFile(
            path, "pickle", {name: in_memory(value) for name, value in tensors.items()}, {}, tuple(others)
        )
    weights, metadata = read_safetensors(path)
    return TensorFile(path, "safetensors", weights, metadata)
