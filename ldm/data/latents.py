"""Pictures as latents, encoded once and kept on disk, because the autoencoder is frozen while the denoiser trains."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.progress import track
from torch import nn

from autoencoder.build import Autoencoder
from ldm.data.pictures import PictureDataset
from ldm.engine.precision import best_dtype
from ldm.io.files import write_folder

if TYPE_CHECKING:
    from hashlib import _Hash

_BATCH = 64


class LatentDataset:
    """The posterior means and deviations of every picture, with the pictures' captions and labels.

    Args:
        pictures: the pictures to encode; crops are not used.
        autoencoder: frozen; the cache belongs to these weights and is made anew for others.
        cache: folder that keeps the encoded latents.
        also_pictures: give the pictures too, as conditions made from them need.

    Attributes:
        weights: of the pictures.
    """

    def __init__(
        self, pictures: PictureDataset, autoencoder: Autoencoder, cache: Path, also_pictures: bool = False
    ) -> None:
        self._pictures, self._also_pictures = pictures, also_pictures
        self.weights = pictures.weights
        folder = cache / fingerprint(pictures, autoencoder)
        if not folder.is_dir():
            _encode(pictures, autoencoder, folder)
        self._moments = np.load(folder / "moments.npy", mmap_mode="r")
        self._used = np.load(folder / "used.npy")

    def __len__(self) -> int:
        return len(self._pictures)

    def item(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """`mean` and `std` (C, h, w) of the latent, with what the pictures' own `item` says for the same `generator`.

        That is `caption`, `label`, `sizes`, and with `also_pictures` the `image`.
        """
        mean, std = torch.from_numpy(self._moments[index].astype(np.float32)).chunk(2)
        used = int(self._used[index])
        item = {"mean": mean, "std": std, **self._pictures.words(used, generator), **self._pictures.sizes(used)}
        return {**item, "image": self._pictures.image(used)} if self._also_pictures else item


@torch.no_grad()
def encode_moments(autoencoder: Autoencoder, pictures: torch.Tensor) -> torch.Tensor:
    """Posterior means and deviations of pictures (B, 3, H, W), one behind the other: fp16 (B, 2C, h, w).

    The only way from pictures to latents in training: cached latents are these, and live ones are rounded alike. The
    arithmetic is in the type that the device is fast at, whatever autocast surrounds it.
    """
    device = pictures.device
    dtype = best_dtype(device)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        posterior = autoencoder.encode(pictures)
    return torch.cat([posterior.mean, (0.5 * posterior.logvar).exp()], 1).half()


def _encode(pictures: PictureDataset, autoencoder: Autoencoder, folder: Path) -> None:
    device = next(autoencoder.parameters()).device
    moments: np.ndarray | None = None
    used: list[int] = []
    with write_folder(folder) as temporary:
        for start in track(range(0, len(pictures), _BATCH), description="encoding latents"):
            ids = range(start, min(start + _BATCH, len(pictures)))
            numbers, images = zip(*(pictures.usable(i) for i in ids), strict=True)
            used += numbers
            rows = encode_moments(autoencoder, torch.stack(images).to(device)).cpu().numpy()
            if moments is None:
                moments = np.lib.format.open_memmap(
                    temporary / "moments.npy", mode="w+", dtype=np.float16, shape=(len(pictures), *rows.shape[1:])
                )
            moments[start : start + len(rows)] = rows
        np.save(temporary / "used.npy", np.array(used))


def fingerprint(pictures: PictureDataset, autoencoder: Autoencoder) -> str:
    """A name for what `autoencoder` makes of `pictures`: other pictures or weights have another one."""
    digest = hashlib.sha256(pictures.fingerprint.encode())
    digest_weights(digest, autoencoder)
    return digest.hexdigest()[:16]


def digest_weights(digest: "_Hash", module: nn.Module) -> None:
    """Let a hash depend on every weight of a module."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
