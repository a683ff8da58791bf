"""Pairs of small pictures as the autoencoder decodes them and the same pictures rendered large."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from autoencoder.build import Autoencoder
from ldm.data.cache.latents import fingerprint
from ldm.data.pictures.dataset import PictureDataset
from ldm.data.sources.open_source import SourceConfig
from ldm.engine.precision import best_dtype
from ldm.io.disk.files import write_folder
from ldm.progress import Progress, silent, track

_BATCH = 64
_CLEAN, _NOISY = 0, 1  # versions of a decoded picture


@dataclass(frozen=True)
class UpscalingDataConfig:
    """Which pictures an upscaler learns from.

    Attributes:
        folder: pictures in any layout, at least `size` pixels large.
        held_out: share of the pictures that previews come from, where the folder has no `held_out/`.
        size: edge of the true pictures, in pixels.
        pictures: how many of them are used, spread evenly over the data set; 0 uses all.
        crop: edge of the samples at the low resolution, in pixels.
        noisy_fraction: share of the samples that are decoded from latents with noise, as generated latents have.
        latent_noise: largest standard deviation of that noise, as a share of the latents' own.
    """

    folder: str = ""
    held_out: float = 0.02
    size: int = 256
    pictures: int = 6000
    crop: int = 24
    noisy_fraction: float = 0.25
    latent_noise: float = 0.2

    def __post_init__(self) -> None:
        for name, least in (("size", 1), ("pictures", 0), ("crop", 1), ("latent_noise", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"data.{name}={getattr(self, name)} must be at least {least}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"data.held_out={self.held_out} is a share of the pictures: use more than 0, below 1")
        if not 0 <= self.noisy_fraction <= 1:
            raise ValueError(f"data.noisy_fraction={self.noisy_fraction} is a share: use 0 to 1")

    @property
    def all_sources(self) -> list[SourceConfig]:
        """The one source."""
        return [SourceConfig(self.folder)]


class UpscalingDataset:
    """Low-resolution pictures decoded by an autoencoder, with their high-resolution truth.

    The truth is averaged down by `factor`, encoded and decoded once; the result is kept as uint8 on disk.

    Args:
        pictures: the truth, whole pictures of `config.size`.
        autoencoder: frozen; the cache belongs to these weights and is made anew for others.
        cache: folder that keeps the decoded pictures.
        factor: of the upscaler.
        config: which pictures, crops and noise.
        whole: items are whole pictures without noise, as for previews and measurements, instead of random crops.
        progress: of the decoding.

    Attributes:
        weights: of the pictures.

    Raises:
        ValueError: `factor` does not divide the pictures' size, or the crop is larger than a whole picture.
    """

    def __init__(
        self,
        pictures: PictureDataset,
        autoencoder: Autoencoder,
        cache: Path,
        factor: int,
        config: UpscalingDataConfig,
        whole: bool = False,
        progress: Progress = silent,
    ) -> None:
        if pictures.size % factor:
            raise ValueError(f"data.size={pictures.size} is not a multiple of upscaler.factor={factor}")
        if not whole and config.crop > pictures.size // factor:
            raise ValueError(f"data.crop={config.crop} is larger than the low resolution, {pictures.size // factor}")
        self._pictures, self._factor, self._config, self._whole = pictures, factor, config, whole
        count = min(config.pictures or len(pictures), len(pictures))
        self._ids = np.arange(count) * len(pictures) // count
        self.weights = pictures.weights[self._ids]
        noise = 0.0 if whole or config.noisy_fraction == 0 else config.latent_noise
        key = f"{fingerprint(pictures, autoencoder)} {factor} {count} {noise}"
        folder = cache / f"upscaling-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        if not folder.is_dir():
            with write_folder(folder) as temporary:
                self._decode_all(autoencoder, noise, temporary, progress)
        self._decoded = np.load(folder / "decoded.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self._ids)

    def item(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """`low` (3, h, w), decoded, and `high` (3, factor h, factor w), the truth, float32 in [-1, 1].

        Always three draws from `generator`: the version, then the crop's row and column.
        """
        draws = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        high = self._pictures.image(int(self._ids[index]))
        if self._whole:
            return {"low": _to_float(self._decoded[index, _CLEAN]), "high": high}
        noisy = self._decoded.shape[1] > 1 and draws[0] < self._config.noisy_fraction
        low = self._decoded[index, _NOISY if noisy else _CLEAN]
        crop, factor = self._config.crop, self._factor
        top, left = (int(draw * (low.shape[0] - crop + 1)) for draw in draws[1:])
        rows, columns = slice(factor * top, factor * (top + crop)), slice(factor * left, factor * (left + crop))
        return {
            "low": _to_float(low[top : top + crop, left : left + crop]),
            "high": high[:, rows, columns].contiguous(),
        }

    @torch.no_grad()
    def _decode_all(self, autoencoder: Autoencoder, noise: float, folder: Path, progress: Progress) -> None:
        weight = next(autoencoder.parameters())
        device, dtype = weight.device, best_dtype(weight.device)
        size = self._pictures.size // self._factor
        decoded = np.lib.format.open_memmap(
            folder / "decoded.npy", mode="w+", dtype=np.uint8, shape=(len(self), 2 if noise else 1, size, size, 3)
        )
        for start in track(range(0, len(self), _BATCH), "decoding low-resolution pictures", progress):
            ids = self._ids[start : start + _BATCH]
            high = torch.stack([self._pictures.image(int(i)) for i in ids]).to(device)
            low = F.avg_pool2d(high, self._factor).to(weight.dtype).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                mean = autoencoder.encode(low).mean
                decoded[start : start + len(ids), _CLEAN] = _to_bytes(autoencoder.decode(mean))
                if noise:
                    disturbed = mean + noise * _latent_noise(mean, start)
                    decoded[start : start + len(ids), _NOISY] = _to_bytes(autoencoder.decode(disturbed))
        decoded.flush()
        (folder / "about.json").write_text(json.dumps({"pictures": len(self), "latent_noise": noise}) + "\n")


def _latent_noise(latents: Tensor, seed: int) -> Tensor:
    """Gaussian noise (B, C, h, w) of each channel's own deviation, times a factor in [0, 1] drawn per picture."""
    generator = torch.Generator().manual_seed(seed)
    amount = torch.rand(len(latents), 1, 1, 1, generator=generator)
    noise = (amount * torch.randn(latents.shape, generator=generator)).to(latents.device)
    return noise * latents.std((0, 2, 3), keepdim=True)


def _to_bytes(images: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [-1, 1] -> uint8 (B, H, W, 3)."""
    pixels = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def _to_float(pixels: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> float32 (3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 127.5 - 1.0
