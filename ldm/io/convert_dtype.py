"""Converts the dtype of a weights file, or a pickle to safetensors, whatever model the weights belong to."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from ldm.io.disk.files import ModelFileError, write_folder
from ldm.io.single_file.ignorable import why_ignorable
from ldm.io.tensors.safetensors_file import write_safetensors
from ldm.io.tensors.tensor_file import TensorFile, open_tensors
from ldm.io.tensors.weights import LazyTensor, cast

Advance = Callable[[int], None]
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def converted_size(source: Path) -> int:
    """Bytes of weights in a file or folder, as the progress of `convert_dtype` counts them."""
    return sum(weight.size for file in _files(source) for weight in open_tensors(file).weights.values())


def convert_dtype(
    source: Path, target: Path, dtype: torch.dtype | None, advance: Advance = lambda size: None
) -> list[str]:
    """Write the weights of a file, or of all files of a folder, as safetensors, under the same names.

    Args:
        source: a file of weights, or a folder, whose other files are copied.
        target: the file or folder to write.
        dtype: of weights with floating point; None keeps it. Tables that no network reads keep theirs.
        advance: gets bytes of the source as they are done.

    Returns:
        The entries of pickles that are no weights and were left out.

    Raises:
        ModelFileError: a file cannot be read.
        ValueError: a folder whose pickles are in pieces.
        OSError: a file cannot be written.
    """
    if not source.is_dir():
        whole = open_tensors(source)
        _write(whole, target, dtype, advance)
        return list(whole.others)
    left_out: list[str] = []
    weights = _files(source)
    with write_folder(target) as folder:
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            place = folder / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            if file.name.endswith(".bin.index.json"):
                raise ValueError(f"{file}: pickles in pieces are not supported; convert each piece by itself")
            if file in weights:
                opened = open_tensors(file)
                name = place.stem.replace("pytorch_model", "model") if place.stem == "pytorch_model" else place.stem
                _write(opened, place.with_name(f"{name}.safetensors"), dtype, advance)
                left_out += opened.others
            else:
                shutil.copyfile(file, place)
    return left_out


def _files(source: Path) -> list[Path]:
    """The files of weights; a pickle beside a safetensors file of its name is a second copy and not among them."""
    if not source.is_dir():
        return [source]
    found = sorted(path for path in source.rglob("*") if path.suffix in (".safetensors", *_PICKLES))
    if not found:
        raise ModelFileError(f"{source} holds no weights; give a model folder or a file")
    return found


def _write(file: TensorFile, target: Path, dtype: torch.dtype | None, advance: Advance) -> None:
    def wanted(name: str, weight: LazyTensor) -> LazyTensor:
        changed = weight if why_ignorable(name) and not name.startswith("model_ema.") else cast(weight, dtype)

        def read(kind: torch.dtype | None) -> torch.Tensor:
            tensor = changed.read(kind)
            advance(weight.size)
            return tensor

        return LazyTensor(changed.shape, changed.dtype, read)

    weights = {name: wanted(name, weight) for name, weight in file.weights.items()}
    write_safetensors(target, weights, file.metadata)
