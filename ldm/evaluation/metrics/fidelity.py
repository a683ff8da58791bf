"""How faithful the autoencoder and the upscaler are to real pictures the model was not trained on."""

from dataclasses import dataclass
from pathlib import Path

import torch

from autoencoder.training.objective import psnr
from ldm.data.pictures.dataset import PictureDataset
from ldm.data.upscaling import UpscalingDataConfig, UpscalingDataset
from ldm.families.parts import ModelParts
from ldm.progress import Progress, silent, track
from ldm.training.objectives.upscaler import measure_upscaler

_BATCH = 16


@dataclass(frozen=True)
class Fidelity:
    """PSNR in dB, mean over held-out pictures, of the parts that need no prompt.

    Attributes:
        pictures: how many.
        autoencoder: by the pictures' size in pixels.
        upscaler, bicubic: of the upscaler and of bicubic, on what the autoencoder makes of small pictures, against the
            large ones; None without an upscaler, or without pictures large enough.
    """

    pictures: int
    autoencoder: dict[str, float]
    upscaler: float | None = None
    bicubic: float | None = None


def measure_fidelity(
    parts: ModelParts,
    data_folder: Path,
    largest: int,
    limit: int = 500,
    split: str = "held_out",
    progress: Progress = silent,
) -> Fidelity:
    """PSNR of autoencoder and upscaler on at most `limit` pictures, spread evenly over the split.

    The autoencoder is measured at the model's own size and at twice that.

    The autoencoder encodes to the mean and decodes, in the number format it is in. The upscaler starts from what the
    autoencoder makes of small pictures, as it does when a picture is generated, and is compared with bicubic. Sizes
    beyond `largest`, the size of the data set's pictures, are left out: there is no truth to compare with.

    Raises:
        ValueError: limit is below 1.
        FileNotFoundError: the split has no pictures.
    """
    if limit < 1:
        raise ValueError(f"limit={limit} must be at least 1")
    by_size = {}
    own = parts.defaults.width
    for size in sorted({min(size, largest) for size in (own, 2 * own)}):
        pictures = PictureDataset(data_folder, size, split, progress=progress)
        count = min(limit, len(pictures))
        by_size[str(size)] = _autoencoder_psnr(parts, pictures, count, progress)
    factor = 1 if parts.upscaler is None else parts.upscaler.config.factor
    if parts.upscaler is None or parts.defaults.width * factor > largest:
        return Fidelity(count, by_size)
    large = PictureDataset(data_folder, parts.defaults.width * factor, split, progress=progress)
    pairs = UpscalingDataset(
        large,
        parts.autoencoder,
        data_folder / ".cache",
        factor,
        UpscalingDataConfig(size=large.size, pictures=count),
        whole=True,
        progress=progress,
    )
    quality = measure_upscaler(parts.upscaler, pairs, count)
    return Fidelity(count, by_size, quality.psnr, quality.bicubic_psnr)


@torch.no_grad()
def _autoencoder_psnr(parts: ModelParts, pictures: PictureDataset, count: int, progress: Progress) -> float:
    weight = next(parts.autoencoder.parameters())
    ids = [number * len(pictures) // count for number in range(count)]
    total = 0.0
    for start in track(range(0, count, _BATCH), f"autoencoder at {pictures.size} px", progress):
        images = torch.stack([pictures.image(i) for i in ids[start : start + _BATCH]]).to(weight.device)
        mean = parts.autoencoder.encode(images.to(weight.dtype)).mean
        total += float(psnr(parts.autoencoder.decode(mean.to(weight.dtype)), images)) * len(images)
    return total / count
