"""Frechet distance between two sets of pictures (Heusel et al. 2017, arXiv:1706.08500, eq. 6).

The features are EfficientNet-lite0's, not Inception's, so the numbers compare models on one data set, never with
published FIDs. The distance falls with the number of pictures; it means nothing without it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autoencoder.training.efficientnet import EfficientNetLite0
from ldm.engine.precision import best_dtype


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


class FeatureExtractor:
    """EfficientNet-lite0's pooled features (ImageNet weights, from the `data` extra)."""

    def __init__(self) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network = EfficientNetLite0.pretrained().to(self._device)

    @torch.no_grad()
    def __call__(self, batches: Iterable[Tensor]) -> np.ndarray:
        """Batches of pictures (B, 3, H, W) in [-1, 1], all of one size -> features (N, 1280), float32."""
        dtype = best_dtype(self._device)
        rows = []
        for images in batches:
            images = images.to(self._device).contiguous(memory_format=torch.channels_last)
            with torch.autocast(self._device.type, dtype, enabled=dtype != torch.float32):
                rows.append(self._network.pooled(images).float().cpu().numpy())
        return np.concatenate(rows)
