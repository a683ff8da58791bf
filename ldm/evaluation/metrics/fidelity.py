"""How faithful the autoencoder and the upscaler are to real pictures the model was not trained on."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from autoencoder.training.objective import psnr
from ldm.data.pictures.dataset import PictureDataset
from ldm.families.parts import ModelParts
from ldm.networks.upscaler.model import Upscaler, bicubic
from ldm.progress import Progress, silent, track

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
    upscaler = parts.upscaler
    if upscaler is None or own * upscaler.config.factor > largest:
        return Fidelity(count, by_size)
    large = PictureDataset(data_folder, own * upscaler.config.factor, split, progress=progress)
    return Fidelity(count, by_size, *_upscaler_psnr(parts, upscaler, large, min(limit, len(large)), progress))


@torch.no_grad()
def _upscaler_psnr(
    parts: ModelParts, upscaler: Upscaler, pictures: PictureDataset, count: int, progress: Progress
) -> tuple[float, float]:
    """PSNR of an upscaler and of bicubic, from what the autoencoder makes of the pictures' block means."""
    device, factor = upscaler.conv_in.weight.device, upscaler.config.factor
    totals = [0.0, 0.0]
    for number in track(range(count), "upscaler", progress):
        high = pictures.image(number * len(pictures) // count)[None].to(device)
        low = _autoencoded(parts, F.avg_pool2d(high, factor)).clamp(-1, 1)
        for place, large in enumerate((upscaler(low), bicubic(low, factor))):
            totals[place] += float(psnr(large, high)) / count
    return totals[0], totals[1]


@torch.no_grad()
def _autoencoder_psnr(parts: ModelParts, pictures: PictureDataset, count: int, progress: Progress) -> float:
    weight = next(parts.autoencoder.parameters())
    ids = [number * len(pictures) // count for number in range(count)]
    total = 0.0
    for start in track(range(0, count, _BATCH), f"autoencoder at {pictures.size} px", progress):
        images = torch.stack([pictures.image(i) for i in ids[start : start + _BATCH]]).to(weight.device)
        total += float(psnr(_autoencoded(parts, images), images)) * len(images)
    return total / count


def _autoencoded(parts: ModelParts, images: Tensor) -> Tensor:
    """images (B, 3, H, W) in [-1, 1], encoded to the mean and decoded, in the number format that the weights are in."""
    dtype = next(parts.autoencoder.parameters()).dtype
    mean = parts.autoencoder.encode(images.to(dtype)).mean
    return parts.autoencoder.decode(mean.to(dtype)).float()
