"""Features of pictures from EfficientNet-lite0, which was trained on ImageNet, and the nearest among them."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autoencoder.training.efficientnet import EfficientNetLite0
from ldm.data.pictures.dataset import PictureDataset
from ldm.engine.precision import best_dtype
from ldm.evaluation.resizing import resize
from ldm.io.disk.files import write_folder
from ldm.progress import Progress, silent, track

FEATURE_SIZE = 128
_BATCH = 64


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


def stored_features(
    extract: FeatureExtractor, pictures: PictureDataset, ids: Sequence[int], cache: Path, progress: Progress = silent
) -> np.ndarray:
    """Features (N, 1280) of the real pictures `ids` at `FEATURE_SIZE`, found at the first call and kept in `cache`."""
    key = hashlib.sha256(json.dumps([pictures.fingerprint, FEATURE_SIZE, list(ids)]).encode()).hexdigest()[:12]
    file = cache / f"features-{key}" / "features.npy"
    if not file.is_file():
        starts = track(range(0, len(ids), _BATCH), "features of real pictures", progress)
        features = extract(
            resize(torch.stack([pictures.image(i) for i in ids[k : k + _BATCH]]), FEATURE_SIZE) for k in starts
        )
        with write_folder(file.parent) as temporary:
            np.save(temporary / file.name, features)
    return np.load(file)


def unit_length(features: np.ndarray) -> np.ndarray:
    """features (N, D), each divided by its length: their products are cosines."""
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(min=1e-12)


def nearest(features: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each of features (N, D) of unit length, the most alike of others (M, D): its number (N,) and cosine (N,).

    Raises:
        ValueError: there are no others.
    """
    if not len(others):
        raise ValueError("there is no picture to be near to; use 1 or more")
    cosines = features @ others.T
    numbers = cosines.argmax(1)
    return numbers, cosines[np.arange(len(features)), numbers]
