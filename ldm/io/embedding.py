"""Files of textual inversions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conditioning.clip.textual_inversion import Embedding, embedding_of
from ldm.io.tensors.pickle_file import load_pickle
from ldm.io.tensors.safetensors_file import read_safetensors

_SUFFIXES = (".safetensors", ".pt", ".bin")


def load_embedding(path: str | Path, width: int | Sequence[int], name: str | None = None) -> Embedding:
    """Read an embedding for a text tower of `width`, or for a pair of towers of these widths.

    Args:
        path: .safetensors, or an old .pt or .bin of A1111, CompVis or diffusers. These are pickles: they are read as
            tensors alone, and code inside is never run.
        width: see `embedding_of`.
        name: what prompts call it; by default the file's name without suffix, as in A1111 and ComfyUI.

    Raises:
        FileNotFoundError: there is no such file.
        ModelFileError: it is damaged or would run code.
        ValueError: it holds no embedding, or one for another width.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; give an embedding file")
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"{path} is no embedding file; use one of {', '.join(_SUFFIXES)}")
    content: Any
    if path.suffix == ".safetensors":
        content = {key: weight.read(None) for key, weight in read_safetensors(path)[0].items()}
    else:
        content = load_pickle(path, mapped=False)
    return embedding_of(content, width, name or path.stem, str(path))
