"""Measuring the latents of a data set, a few pictures at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from autoencoder.build import Autoencoder
from autoencoder.statistics import LatentStatistics
from ldm.progress import Progress, silent, track
from ldm.training.batches.sample_order import generator_for
from ldm.training.objectives.base import Dataset

_PIXELS = 2**20  # of a batch: 16 pictures of 256 px, which fits beside Stable Diffusion's autoencoder in 8 GB


def measure_dataset(
    autoencoder: Autoencoder, dataset: Dataset, pictures: int, progress: Progress = silent
) -> LatentStatistics:
    """Statistics over so many pictures, spread evenly over the data set.

    Each is drawn as the first visit of a training would draw it, so the same call gives the same numbers.
    """
    return LatentStatistics.measure(autoencoder, _batches(autoencoder, dataset, pictures, progress))


def _batches(autoencoder: Autoencoder, dataset: Dataset, pictures: int, progress: Progress) -> Iterator[Tensor]:
    device = next(autoencoder.parameters()).device
    batch: list[Tensor] = []
    for i in track(range(pictures), "measuring latents", progress):
        image = dataset.item(i * len(dataset) // pictures, generator_for(0, i))["image"]
        if batch and (image.shape != batch[0].shape or len(batch) * batch[0][0].numel() >= _PIXELS):
            yield torch.stack(batch).to(device)
            batch = []
        batch.append(image)
    yield torch.stack(batch).to(device)
