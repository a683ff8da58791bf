"""Pictures as latents, encoded once and kept on disk, because the autoencoder is frozen while the denoiser trains."""

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoencoder.build import Autoencoder
from conditioning.fingerprint import digest_weights
from ldm.data.cache.shards import Shard, ShardCache, cut_into_shards
from ldm.data.pictures.dataset import PictureDataset
from ldm.engine.precision import best_dtype
from ldm.progress import Progress, silent

_PIXELS = 2**20  # of a batch: 16 pictures of 256 px, which fits beside Stable Diffusion's autoencoder in 8 GB
_LARGEST_BATCH = 64


class LatentDataset:
    """The posterior means and deviations of every picture, with the pictures' captions and labels.

    They are encoded in shards, by all processes together; see `ShardCache`.

    Args:
        pictures: the pictures to encode; crops are not used.
        autoencoder: frozen; the cache belongs to these weights and is made anew for others.
        cache: folder that keeps the encoded latents.
        also_pictures: give the pictures too, as conditions made from them need.
        progress: of the encoding.

    Attributes:
        weights, groups: of the pictures.

    Raises:
        OSError: the disk has no room for the latents.
    """

    def __init__(
        self,
        pictures: PictureDataset,
        autoencoder: Autoencoder,
        cache: Path,
        also_pictures: bool = False,
        progress: Progress = silent,
    ) -> None:
        self._pictures, self._also_pictures = pictures, also_pictures
        self.weights, self.groups = pictures.weights, pictures.groups
        config = autoencoder.config
        cells = [(height // config.factor) * (width // config.factor) for height, width in pictures.shapes]
        row_bytes = [2 * 2 * config.latent_channels * count + 8 for count in cells]
        groups = np.zeros(len(pictures), np.int64) if self.groups is None else self.groups
        self._cache = ShardCache(
            cache / f"latents-{fingerprint(pictures, autoencoder)}",
            cut_into_shards(groups, row_bytes),
            lambda shard: _encode(pictures, autoencoder, shard),
            "latents",
            progress,
        )

    def __len__(self) -> int:
        return len(self._pictures)

    def item(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """`mean` and `std` (C, h, w) of the latent, with what the pictures' own `item` says for the same `generator`.

        That is `caption`, `kind`, `label`, `sizes`, and with `also_pictures` the `image`.
        """
        row, pictures = self._cache.row(index), self._pictures
        mean, std = row["moments"].float().chunk(2)
        used = int(row["used"])
        metadata = pictures.words(used, generator) | pictures.sizes(used, pictures.shape(index))
        item = {"mean": mean, "std": std, **metadata}
        return {**item, "image": pictures.image(index)} if self._also_pictures else item


@torch.no_grad()
def encode_moments(autoencoder: Autoencoder, pictures: Tensor) -> Tensor:
    """Posterior means and deviations of pictures (B, 3, H, W), one behind the other: fp16 (B, 2C, h, w).

    The only way from pictures to latents in training: cached latents are these, and live ones are rounded alike. The
    arithmetic is in the type that the device is fast at, whatever autocast surrounds it.
    """
    device = pictures.device
    dtype = best_dtype(device)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        posterior = autoencoder.encode(pictures.contiguous(memory_format=torch.channels_last))
    return torch.cat([posterior.mean, (0.5 * posterior.logvar).exp()], 1).half()


def _encode(pictures: PictureDataset, autoencoder: Autoencoder, shard: Shard) -> dict[str, Tensor]:
    """The moments of a shard's pictures, and the number of the picture that each is of: its own, or its stand-in's."""
    device = next(autoencoder.parameters()).device
    moments, used = [], []
    for numbers, images in _loaded(pictures, shard.ids.tolist()):
        moments.append(encode_moments(autoencoder, images.to(device)).cpu())
        used += numbers
    return {"moments": torch.cat(moments), "used": torch.tensor(used)}


def _loaded(pictures: PictureDataset, ids: list[int]) -> Iterator[tuple[list[int], Tensor]]:
    """Batches of pictures (B, 3, H, W) with their numbers; threads decode the next one while this one is used."""
    height, width = pictures.shape(ids[0])
    size = max(1, min(_LARGEST_BATCH, _PIXELS // (height * width)))
    ahead: deque[Iterable[tuple[int, Tensor]]] = deque()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(ids), size):
            ahead.append(pool.map(pictures.usable, ids[start : start + size]))
            if len(ahead) == 2:
                yield _stacked(ahead.popleft())
        yield from map(_stacked, ahead)


def _stacked(loaded: Iterable[tuple[int, Tensor]]) -> tuple[list[int], Tensor]:
    numbers, images = zip(*loaded, strict=True)
    return list(numbers), torch.stack(images)


def fingerprint(pictures: PictureDataset, autoencoder: Autoencoder) -> str:
    """A name for what `autoencoder` makes of `pictures`: other pictures or weights have another one."""
    digest = hashlib.sha256(pictures.fingerprint.encode())
    digest_weights(digest, autoencoder)
    return digest.hexdigest()[:16]
