"""The weights in a folder of a model, in one file or in shards, still where they lie."""

from pathlib import Path

from ldm.io.disk.files import find_weights
from ldm.io.tensors.tensor_file import open_tensors
from ldm.io.tensors.weights import LazyTensor


def folder_weights(folder: Path, stem: str, variant: str | None = None) -> dict[str, LazyTensor]:
    """The weights `stem` in `folder`, by name; see `find_weights`. Raises ModelFileError naming a file."""
    found: dict[str, LazyTensor] = {}
    for path in find_weights(folder, stem, variant):
        found |= open_tensors(path).weights
    return found
