"""Class labels as conditioning, with one more class that means "none" for classifier-free guidance."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from conditioning.bundle import Conditioning


@dataclass(frozen=True)
class Labels:
    """The class names of a class-conditional model, in the order of their numbers.

    Number `len(names)` is the null class: the one a label is replaced by when it is dropped in training, and the
    unconditional half of guidance (Ho & Salimans 2022, arXiv:2207.12598, algorithm 1).
    """

    names: tuple[str, ...]

    @property
    def num_embeddings(self) -> int:
        """Rows that the network's class embedding needs: every name and the null class."""
        return len(self.names) + 1

    def encode(self, labels: Sequence[str | int]) -> Conditioning:
        """Names or numbers -> `Conditioning(labels=(B,))`.

        Raises:
            ValueError: a label that is unknown.
        """
        return Conditioning(labels=torch.tensor([self._number(label) for label in labels], dtype=torch.long))

    def null(self, batch_size: int = 1) -> Conditioning:
        """The null class for each of `batch_size` samples."""
        return Conditioning(labels=torch.full((batch_size,), len(self.names), dtype=torch.long))

    def _number(self, label: str | int) -> int:
        if isinstance(label, int):
            if 0 <= label < len(self.names):
                return label
            raise ValueError(f"label={label} is no class number; use 0 to {len(self.names) - 1}")
        if label in self.names:
            return self.names.index(label)
        near = difflib.get_close_matches(label, self.names, n=3, cutoff=0.0)
        raise ValueError(f"label={label!r} is no class name; nearest: {', '.join(near)}")
