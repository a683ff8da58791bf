"""Textual inversions: words trained as input embeddings of a text tower (Gal et al. 2022, arXiv:2208.01618)."""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SUFFIXES = (".safetensors", ".pt", ".bin")
"""Of embedding files, the one to be preferred first."""
_PAIR = ("clip_l", "clip_g")
"""What files call the vectors for the two towers of SDXL, in the order of the towers."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """One such word. vectors: (n, D) fp32; in a prompt it takes the place of n tokens.

    For a pair of text towers D holds both towers' vectors side by side.
    """

    name: str
    vectors: Tensor


def load_embedding(path: str | Path, width: int | Sequence[int], name: str | None = None) -> Embedding:
    """Read an embedding for a text tower of `width`, or for a pair of towers of these widths.

    path: .safetensors (`emb_params`, or one tensor named after its word as diffusers writes it; of SDXL's `clip_l` and
        `clip_g` the one that fits, for a pair both), or an old .pt or .bin of A1111, CompVis or diffusers.
    name: what prompts call it; by default the file's name without suffix, as in A1111 and ComfyUI.

    .pt and .bin are pickles: they are read as tensors alone, and code inside is never run.

    Raises FileNotFoundError, OSError for a file that is damaged or would run code, ValueError for one that holds no
    embedding or one for another width.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; give an embedding file")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is no embedding file; use one of {', '.join(SUFFIXES)}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    terms = _terms(content)
    widths = [width] if isinstance(width, int) else list(width)
    pair = len(widths) > 1 and set(_PAIR) <= terms.keys()
    found = [{key: terms[key]} for key in _PAIR] if pair else [terms] * len(widths)
    parts = [_fitting(own, each, path) for own, each in zip(found, widths, strict=True)]
    if len({len(part) for part in parts}) > 1:
        raise ValueError(f"{path} has {' and '.join(str(len(part)) for part in parts)} vectors; both must be as many")
    return Embedding(name or path.stem, torch.cat(parts, dim=1))


class EmbeddingFolder(Mapping[str, Embedding]):
    """The embeddings in a folder and the folders below it by name, each read when first asked for.

    Asking for one raises what `load_embedding` does; looking at the names opens no file.
    """

    def __init__(self, folder: str | Path, width: int | Sequence[int]) -> None:
        """width: as of `load_embedding`.

        Raises FileNotFoundError for no folder, ValueError for two files of one name.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is no folder; give the one with the embedding files")
        self._width = width
        self._read: dict[str, Embedding] = {}
        self._paths: dict[str, Path] = {}
        for path in sorted(folder.rglob("*"), key=lambda path: (path.suffix not in SUFFIXES[:1], path)):
            if path.suffix not in SUFFIXES or not path.is_file():
                continue
            first = self._paths.setdefault(path.stem, path)
            if first.parent != path.parent:
                raise ValueError(f"{first} and {path} are both called {path.stem!r}; rename one")

    def __getitem__(self, name: str) -> Embedding:
        """Raises KeyError for an unknown name."""
        if name not in self._read:
            self._read[name] = load_embedding(self._paths[name], self._width)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._paths)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._paths)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise OSError(f"{path} is not a whole safetensors file ({error}); fetch it again") from error


def _read_pickle(path: Path) -> Any:
    # CompVis saved a ParameterDict: a container, which runs nothing when it is filled.
    try:
        with torch.serialization.safe_globals([torch.nn.ParameterDict]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise OSError(
            f"{path} is damaged or holds more than tensors, which could run code, and is not opened; "
            "get a .safetensors file of it, or ask its author for torch.save({'name': tensor}, file)"
        ) from None
    except Exception as error:  # a damaged archive fails in as many ways as it has parts
        raise OSError(f"{path} is damaged ({type(error).__name__}); fetch it again") from None


def _terms(content: Any) -> dict[str, Tensor]:
    """The tensors of an embedding file by their names in it."""
    if isinstance(content, dict) and "string_to_param" in content:
        content = dict(content["string_to_param"].items())
    if not isinstance(content, dict):
        return {}
    return {
        str(name): value
        for name, value in content.items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() in (1, 2) and value.numel()
    }


def _fitting(terms: dict[str, Tensor], width: int, path: Path) -> Tensor:
    if not terms:
        raise ValueError(f"{path} holds no embedding; expected emb_params, string_to_param or a named tensor")
    fitting = {name: value for name, value in terms.items() if value.shape[-1] == width}
    if not fitting:
        found = " and ".join(str(size) for size in sorted({value.shape[-1] for value in terms.values()}))
        raise ValueError(f"{path} is an embedding of width {found}; this text tower has width {width}, so use another")
    if len(fitting) > 1:
        raise ValueError(f"{path} holds several embeddings ({', '.join(fitting)}); save one in each file")
    return next(iter(fitting.values())).detach().float().reshape(-1, width)
