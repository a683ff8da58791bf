"""Several sources as one, each with its share of the samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldm.data.sources.columns import Columns
from ldm.data.sources.source import Source, digest


class SourceMixture:
    """The pictures of several sources, one source behind the other.

    Args:
        sources: at least one.
        columns: what is known of the pictures of each.
        cache: folder for what is found out about these pictures.
        shares: of the samples that each source gives, relative to the others; None draws all pictures alike.
        classes: what the labels of all pictures stand for, in their order; None if that is not known.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        columns: Sequence[Columns],
        cache: Path,
        shares: Sequence[float] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self._sources, self.cache, self._shares, self.classes = list(sources), cache, shares, classes
        self.columns = Columns.joined(columns)
        self._ends = np.cumsum([len(source) for source in self._sources])
        prints = [source.fingerprint for source in self._sources]
        self.fingerprint = prints[0] if len(prints) == 1 else digest(*prints)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def balanced(self, weights: np.ndarray) -> np.ndarray:
        """The weights of all pictures (N,), scaled so that each source has its share of their sum."""
        if self._shares is None:
            return weights
        weights = weights.astype(np.float64)
        for share, part in zip(self._shares, np.split(weights, self._ends[:-1]), strict=True):
            if total := part.sum():
                part *= share / total  # a view
        return weights * len(weights)

    def key(self, index: int) -> str:
        """As the source's."""
        source, inside = self._at(index)
        return source.key(inside)

    def where(self, index: int) -> str:
        """As the source's."""
        source, inside = self._at(index)
        return source.where(inside)

    def where_metadata(self, index: int) -> str:
        """As the source's."""
        source, inside = self._at(index)
        return source.where_metadata(inside)

    def metadata(self, index: int) -> dict[str, Any]:
        """As the source's."""
        source, inside = self._at(index)
        return source.metadata(inside)

    def picture(self, index: int) -> bytes:
        """As the source's."""
        source, inside = self._at(index)
        return source.picture(inside)

    def _at(self, index: int) -> tuple[Source, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self._sources[number], index - (int(self._ends[number - 1]) if number else 0)
