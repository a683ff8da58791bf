"""Files with the noise that pictures begin with."""

import hashlib
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ldm.io.disk.files import ModelFileError
from ldm.io.tensors.pickle_file import load_pickle
from ldm.io.tensors.safetensors_file import read_safetensors

_SUFFIXES = (".safetensors", ".npy", ".npz", ".pt", ".pth", ".bin")
_FRAGMENT = re.compile(r"(\d{1,9})?(?:(?:^|,)sha256=([0-9a-f]{64}))?")


@dataclass(frozen=True)
class NoiseFile:
    """The name of a noise as requests and recipes have it: `FILE`, `FILE#2`, `FILE#2,sha256=...`.

    Attributes:
        path: of the file.
        index: of the first picture's noise in it.
        sha256: of the file's bytes; empty is not to check them.
    """

    path: str
    index: int = 0
    sha256: str = ""

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read a name; a `#` that nothing like this follows is part of the file's name."""
        path, _, fragment = name.rpartition("#")
        found = _FRAGMENT.fullmatch(fragment) if path and fragment else None
        return cls(name) if found is None else cls(path, int(found[1] or 0), found[2] or "")

    def __str__(self) -> str:
        fragment = ",".join(([str(self.index)] if self.index else []) + ([f"sha256={self.sha256}"] * bool(self.sha256)))
        return f"{self.path}#{fragment}" if fragment else self.path

    def read(self, count: int, shape: tuple[int, int, int]) -> "tuple[Tensor, list[NoiseFile]]":
        """The noise of some pictures, fp32, and the name of each one's, with the file's hash.

        Args:
            count: of pictures; a file with one noise serves them all.
            shape: of one noise, (C, h, w).

        Returns:
            (count, C, h, w), and one name per picture.

        Raises:
            OSError: the file is missing, damaged, or no longer the one that a recipe names.
            ValueError: it holds no such noise, or not enough of it.
        """
        noise, sha256 = self._load()
        if tuple(noise.shape[1:]) != shape:
            raise ValueError(f"latents {self.path} is {tuple(noise.shape)}; this call needs (B or 1, {str(shape)[1:]}")
        rows = self._rows(noise, count)
        return noise[rows], [NoiseFile(self.path, row, sha256) for row in rows]

    def check(self, count: int) -> None:
        """Raise what `read` would for so many pictures, before a model is there whose latents have a shape."""
        self._rows(self._load()[0], count)

    def _rows(self, noise: Tensor, count: int) -> list[int]:
        """Which of the file's noises the pictures have."""
        if len(noise) == 1:
            return [0] * count
        if self.index + count > len(noise):
            raise ValueError(
                f"latents {self.path} holds {len(noise)} noises; {count} pictures from number {self.index} need more, "
                "or a file with one"
            )
        return list(range(self.index, self.index + count))

    def _load(self) -> tuple[Tensor, str]:
        """All noises (B, C, h, w) of the file, and its hash."""
        path = Path(self.path)
        if path.suffix.lower() not in _SUFFIXES:
            raise ValueError(f"latents {path} is no file of noise; use one of {', '.join(_SUFFIXES)}")
        if not path.is_file():
            raise FileNotFoundError(f"latents {path} is missing; name a file with noise")
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if self.sha256 and sha256 != self.sha256:
            raise OSError(
                f"latents {path} has changed since the picture was made: its sha256 begins with {sha256[:12]}, "
                f"not {self.sha256[:12]}; bring the old file back, or name this one with --init-latents"
            )
        noise = _only_tensor(path)
        noise = noise.unsqueeze(0) if noise.ndim == 3 else noise
        if noise.ndim != 4 or not len(noise):
            raise ValueError(f"latents {path} is {tuple(noise.shape)}; it must be (B, C, h, w)")
        if not bool(torch.isfinite(noise).all()):
            raise ValueError(f"latents {path} holds NaN or infinity; give noise of variance 1")
        return noise, sha256


def _only_tensor(path: Path) -> Tensor:
    """The one array of numbers in a file, or the one that is called `latents` or `noise`, fp32."""
    arrays: dict[str, Tensor]
    try:
        if path.suffix.lower() in (".npy", ".npz"):
            content = np.load(path, allow_pickle=False)
            named = {"latents": content} if isinstance(content, np.ndarray) else dict(content.items())
            arrays = {name: torch.from_numpy(each.astype(np.float32)) for name, each in named.items()}
        elif path.suffix.lower() == ".safetensors":
            arrays = {name: each.read(torch.float32) for name, each in read_safetensors(path)[0].items()}
        else:
            held = load_pickle(path, mapped=False)
            entries = held if isinstance(held, dict) else {"latents": held}
            arrays = {str(name): each.float() for name, each in entries.items() if isinstance(each, Tensor)}
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ModelFileError(f"latents {path} cannot be read as numbers ({error}); write it again") from None
    named_so = [name for name in ("latents", "noise") if name in arrays]
    if len(arrays) != 1 and not named_so:
        raise ValueError(f"latents {path} holds {len(arrays)} arrays; keep one, or call it latents")
    return arrays[named_so[0] if named_so else next(iter(arrays))]
