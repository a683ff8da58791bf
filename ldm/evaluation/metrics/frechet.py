"""Frechet distance between two sets of pictures (Heusel et al. 2017, arXiv:1706.08500, eq. 6).

The features are EfficientNet-lite0's, not Inception's, so the numbers compare models on one data set, never with
published FIDs. The distance falls with the number of pictures; it means nothing without it.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Gaussian:
    """The mean (D,) and covariance (D, D), float64, of `n` feature vectors."""

    mean: np.ndarray
    covariance: np.ndarray
    n: int

    @classmethod
    def of(cls, features: np.ndarray) -> "Gaussian":
        """The Gaussian with the moments of features (N, D).

        Raises:
            ValueError: fewer than two features.
        """
        if len(features) < 2:
            raise ValueError(f"{len(features)} feature vectors have no covariance; use at least 2 pictures")
        wide = features.astype(np.float64)
        return cls(wide.mean(0), np.cov(wide, rowvar=False).reshape(wide.shape[1], wide.shape[1]), len(wide))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), in float64.

    C_a C_b is similar to the symmetric S C_b S with S = C_a^(1/2), so both roots come from symmetric eigenproblems: no
    complex numbers, and no need for a full-rank covariance, which few pictures do not give.
    """
    root = _root(a.covariance)
    inner = root @ b.covariance @ root
    eigenvalues = np.linalg.eigvalsh((inner + inner.T) / 2)
    cross = np.sqrt(eigenvalues.clip(min=0)).sum()
    shift = a.mean - b.mean
    return float(shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


@dataclass(frozen=True)
class Distance:
    """Frechet distances on EfficientNet-lite0 features.

    Attributes:
        generated: generated pictures against `reference` real ones.
        real: as many other real pictures against the same, the least that this number of pictures can give.
        pictures: how many generated, and how many other real ones.
        reference: how many real pictures both are compared with.
        size: height and width in pixels at which pictures were compared.
    """

    generated: float
    real: float
    pictures: int
    reference: int
    size: int

    @classmethod
    def of(cls, generated: np.ndarray, real: np.ndarray, size: int) -> "Distance | None":
        """Of the features (N, D) of generated pictures and (M, D) of real ones in random order; None of too few.

        The first fifth of the real ones is set aside, to be compared with the others as the generated ones are.
        """
        aside = max(2, len(real) // 5)
        count = min(len(generated), aside)
        if count < 2 or len(real) < aside + 2:
            return None
        reference = Gaussian.of(real[aside:])
        return cls(
            generated=frechet_distance(Gaussian.of(generated[:count]), reference),
            real=frechet_distance(Gaussian.of(real[:count]), reference),
            pictures=count,
            reference=reference.n,
            size=size,
        )
