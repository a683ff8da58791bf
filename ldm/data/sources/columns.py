"""Metadata of all pictures, read once into columns: captions, label, weight and kind as columns."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ldm.data.sources.label_and_weight import label_of, weight_of
from ldm.data.sources.source import NOTE, Source

_log = logging.getLogger(__name__)


class Texts:
    """Lists of texts by number, held as one buffer: forked workers share it, however many texts there are."""

    def __init__(self, rows: Iterable[Sequence[str]]) -> None:
        encoded, ends, counts = bytearray(), [0], [0]
        for row in rows:
            for text in row:
                encoded += text.encode("utf-8", "surrogatepass")
                ends.append(len(encoded))
            counts.append(len(row))
        self._bytes = bytes(encoded)
        self._ends = np.array(ends, dtype=np.int64)
        self._starts = np.cumsum(counts, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._starts) - 1

    @property
    def counts(self) -> np.ndarray:
        """How many texts each list has: int64 (N,)."""
        return np.diff(self._starts)

    def __getitem__(self, index: int) -> list[str]:
        first, last = self._starts[index : index + 2].tolist()
        ends = self._ends[first : last + 1].tolist()
        return [self._bytes[start:end].decode("utf-8", "surrogatepass") for start, end in pairwise(ends)]

    def __iter__(self) -> Iterator[list[str]]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class Columns:
    """Of N pictures.

    Attributes:
        captions: a list for each picture, perhaps empty.
        labels: int64 (N,), `NO_LABEL` where there is none.
        weights: float64 (N,), 1 where there is none.
        kinds: str (N,), empty where there is none.
    """

    captions: Texts
    labels: np.ndarray
    weights: np.ndarray
    kinds: np.ndarray

    @classmethod
    def of(cls, source: Source) -> "Columns":
        """Read the metadata of every picture.

        Raises:
            ValueError: a label or weight is no number; says where.
        """
        labels, weights, kinds, odd = [], [], [], []

        def captions() -> Iterable[Sequence[str]]:
            for i in range(len(source)):
                metadata = source.metadata(i)
                try:
                    labels.append(label_of(metadata))
                    weights.append(weight_of(metadata))
                except ValueError as error:
                    raise ValueError(f"{source.where_metadata(i)}: {error}") from error
                kinds.append(str(metadata.get("kind") or ""))
                if NOTE in metadata:
                    odd.append(i)
                yield metadata["captions"]

        texts = Texts(captions())
        if odd:
            first = f"{source.where(odd[0])}: {source.metadata(odd[0])[NOTE]}"
            _log.warning("%d of %d records are odd (%s); `ldm data check` lists all", len(odd), len(texts), first)
        return cls(texts, np.array(labels, np.int64), np.array(weights, np.float64), np.array(kinds, np.str_))

    def take(self, ids: np.ndarray) -> "Columns":
        """Those of some pictures, by number."""
        captions = Texts(self.captions[i] for i in ids.tolist())
        return Columns(captions, self.labels[ids], self.weights[ids], self.kinds[ids])

    @staticmethod
    def joined(parts: Sequence["Columns"]) -> "Columns":
        """Those of several sources, one behind the other."""
        if len(parts) == 1:
            return parts[0]
        captions = Texts(part.captions[i] for part in parts for i in range(len(part.captions)))
        labels, weights, kinds = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "weights", "kinds")
        )
        return Columns(captions, labels, weights, kinds)
