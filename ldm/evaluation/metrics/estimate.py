"""Shares, means and ratios of means, with their standard errors."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A value found from `n` pictures; `error` is its standard error, None of a single picture."""

    value: float
    error: float | None
    n: int

    @classmethod
    def mean(cls, values: np.ndarray) -> "Estimate | None":
        """The mean of values (N,); None of none at all."""
        count = len(values)
        if not count:
            return None
        error = float(values.std(ddof=1)) / count**0.5 if count > 1 else None
        return cls(float(values.mean()), error, count)

    @classmethod
    def ratio(cls, values: np.ndarray, others: np.ndarray) -> "Estimate | None":
        """mean(values) / mean(others) of pairs (N,); None where the others are zero, or there are none.

        The standard error is that of the linearised ratio (Cochran 1977, eq. 2.46): pairs that are alike in ratio add
        nothing to it, however different they are in size.
        """
        if not len(values) or not (below := float(others.mean())):
            return None
        value = float(values.mean()) / below
        deviation = cls.mean(values - value * others)
        assert deviation is not None
        return cls(value, None if deviation.error is None else deviation.error / abs(below), len(values))


@dataclass(frozen=True)
class Rate:
    """A share in [0, 1] and the number of pictures that it is a share of."""

    share: float
    n: int

    @classmethod
    def of(cls, hits: Iterable[bool]) -> "Rate | None":
        """The share of true ones; None of none at all."""
        listed = list(hits)
        return cls(sum(listed) / len(listed), len(listed)) if listed else None

    @property
    def error(self) -> float:
        """Standard error of the share, as if two more hits and two more misses were seen (Agresti and Coull 1998).

        Wald's is zero where all or none were hit, however few they were.
        """
        share = (self.share * self.n + 2) / (self.n + 4)
        return (share * (1 - share) / (self.n + 4)) ** 0.5
