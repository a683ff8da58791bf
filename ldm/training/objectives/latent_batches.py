"""What a batch holds for a denoiser: latents, and everything that its network is conditioned on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from autoencoder.build import Autoencoder
from autoencoder.latent_format import LatentFormat
from conditioning.bundle import Conditioning
from conditioning.clip.pair import ClipTextEncoder
from conditioning.text_encoder import TextEncoder
from ldm.data.cache.latents import encode_moments
from ldm.data.cache.text_states import TextStates, encode_captions
from ldm.denoiser import Denoiser
from ldm.engine.placement import send
from ldm.networks.unet import UNetConfig
from ldm.networks.upscaler.model import Upscaler
from ldm.noise import NoiseSource
from ldm.samplers import SAMPLERS
from ldm.schedules import make_grid
from ldm.training.diffusion.noising import draw_normal
from ldm.training.objectives.base import Batch
from ldm.training.objectives.concat_conditions import CONCAT_CONDITIONS, Concat, Source, check_concat


@dataclass(frozen=True)
class FrozenParts:
    """The frozen networks around the denoiser, which are exported with it.

    Attributes:
        text: the text encoder; None for a denoiser of labels, or without conditioning.
        states: outputs of `text`, kept on disk; without them it runs in every step.
        words: of all captions that the exported model was trained on, an earlier training's too; None if not known.
    """

    autoencoder: Autoencoder
    latent_format: LatentFormat
    text: ClipTextEncoder | None = None
    upscaler: Upscaler | None = None
    states: TextStates | None = None
    words: frozenset[str] | None = frozenset()

    def conditioning(self, captions: Sequence[str], device: torch.device) -> Conditioning:
        """Token states and pooled states of captions, on `device`. There must be a text encoder."""
        if self.states is not None:
            return self.states.encode(captions, device)
        assert self.text is not None
        return encode_captions(self.text, captions, device)


class LatentBatches:
    """Reads batches of cached latents (`mean`, `std`, as `LatentDataset` gives them) or of pictures (`image`).

    Pictures are encoded in every step; a concat condition needs them in either case.

    Args:
        frozen: the finished parts of the model.
        unet: of the denoiser.
        concat: a key of `CONCAT_CONDITIONS`, or empty.
        noise_levels: of the condition `low_resolution`.

    Raises:
        ValueError: see `require_fit`.
    """

    def __init__(self, frozen: FrozenParts, unet: UNetConfig, concat: str = "", noise_levels: int = 1) -> None:
        require_fit(unet, frozen, concat, noise_levels)
        self.frozen, self._unet, self._concat_name, self._noise_levels = frozen, unet, concat, noise_levels
        for part in (frozen.autoencoder, frozen.text):
            if part is not None:
                part.eval().requires_grad_(False)

    def latent(self, batch: Batch, generators: list[torch.Generator], device: torch.device) -> Tensor:
        """A sample of each posterior (B, C, h, w), fp32, as the denoiser sees it."""
        if "mean" in batch:
            mean, std = send(batch["mean"], device).float(), send(batch["std"], device).float()
        else:
            pictures = send(batch["image"], device)
            mean, std = encode_moments(self.frozen.autoencoder.to(device), pictures).float().chunk(2, 1)
        return self.frozen.latent_format.to_model(mean + std * send(draw_normal(mean.shape[1:], generators), device))

    def conditioning(
        self, batch: Batch, dropped: list[bool], generators: list[torch.Generator], device: torch.device
    ) -> Conditioning:
        """All conditions that the network has an input for, without words and label where `dropped`."""
        unet, conditioning = self._unet, Conditioning()
        if self.frozen.text is not None:
            captions = ["" if drop else caption for caption, drop in zip(batch["caption"], dropped, strict=True)]
            conditioning = self.frozen.conditioning(captions, device)
        if unet.pooled_dim is not None:
            conditioning = replace(conditioning, sizes=_required(batch, "sizes", "unet.size_embedding_dim"))
        if self._concat_name:
            concat = self._concat(batch, generators, device)
            conditioning = replace(conditioning, concat=concat.channels, labels=concat.labels)
        if unet.num_classes is not None and conditioning.labels is None:
            null = unet.num_classes - 1  # the last class stands for "no class"
            labels = _required(batch, "label", "unet.num_classes").tolist()
            dropped_labels = [null if drop else label for label, drop in zip(labels, dropped, strict=True)]
            conditioning = replace(conditioning, labels=torch.tensor(dropped_labels))
        return send(conditioning, device, torch.float32)

    def draw(self, batch: Batch, denoise: Denoiser, steps: int, device: torch.device) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1], in steps of DDIM from noise that is fixed per place in the batch."""
        shape = (self.frozen.latent_format.channels, *self._latent_size(batch))
        noise = NoiseSource(range(len(batch["index"])), shape, device)
        grid = make_grid("trailing", denoise.process, steps)
        latent = denoise.process.initial(noise(), grid[0])
        for step in SAMPLERS["ddim"](denoise, latent, grid, noise):
            latent = step.x
        autoencoder = self.frozen.autoencoder.to(device)
        pictures = autoencoder.decode(self.frozen.latent_format.to_autoencoder(latent).float()).float()
        if self.frozen.upscaler is not None:  # as users will see them
            pictures = self.frozen.upscaler.to(device)(pictures.clamp(-1, 1)).float()
        return pictures / 2 + 0.5

    def real(self, batch: Batch, like: Tensor) -> Tensor:
        """The batch's own pictures in the size of others: as they are, or decoded from their latents."""
        pictures = batch.get("image")
        if pictures is None:
            pictures = self.frozen.autoencoder.to(like.device).decode(batch["mean"].to(like.device).float())
        return F.interpolate(pictures.float().to(like.device) / 2 + 0.5, like.shape[2:])

    def _latent_size(self, batch: Batch) -> tuple[int, int]:
        """Height and width of the batch's latents."""
        if "mean" in batch:
            return batch["mean"].shape[2:]
        factor = self.frozen.latent_format.factor
        return batch["image"].shape[2] // factor, batch["image"].shape[3] // factor

    def _encode(self, pictures: Tensor) -> Tensor:
        """The mean of each posterior, as the denoiser sees it."""
        mean, _ = encode_moments(self.frozen.autoencoder.to(pictures.device), pictures).float().chunk(2, dim=1)
        return self.frozen.latent_format.to_model(mean)

    def _concat(self, batch: Batch, generators: list[torch.Generator], device: torch.device) -> Concat:
        pictures = _required(batch, "image", "diffusion.concat").to(device)
        source = Source(pictures, self._latent_size(batch), generators, self._encode, self._noise_levels)
        return CONCAT_CONDITIONS[self._concat_name](source)


def require_fit(unet: UNetConfig, frozen: FrozenParts, concat: str = "", noise_levels: int = 1) -> None:
    """Refuse a network that has no place for its conditions.

    Raises:
        ValueError: its channels, classes or vector inputs do not fit; names the fields.
    """
    check_concat(concat, unet, frozen.latent_format.channels, noise_levels)
    _check_vector(unet, frozen.text)


def _check_vector(unet: UNetConfig, text: TextEncoder | None) -> None:
    """Refuse a network whose vector inputs (pooled text and sizes) nothing here can fill."""
    if unet.pooled_dim is None:
        return
    if text is None or text.widths.pooled != unet.pooled_dim:
        there = "no text encoder" if text is None else f"a text encoder that gives {text.widths.pooled} numbers"
        raise ValueError(f"unet.pooled_dim={unet.pooled_dim} is for pooled text, but there is {there}")
    if unet.size_count != 6:
        raise ValueError(f"unet.size_count={unet.size_count} cannot be trained; use 6: original, crop and target size")


def _required(batch: Batch, key: str, field: str) -> Tensor:
    if key not in batch:
        raise ValueError(f"{field} needs {key!r} of every sample, which this data set does not give")
    value: Tensor = batch[key]
    return value
