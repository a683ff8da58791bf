"""The denoiser's objective: predict noise, velocity or picture of a noised latent at a random time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from autoencoder.build import Autoencoder
from autoencoder.latent_format import LatentFormat
from conditioning.bundle import Conditioning
from conditioning.clip.pair import ClipTextEncoder
from conditioning.text_encoder import TextEncoder
from ldm.data.cache.latents import encode_moments
from ldm.data.cache.text_states import TextStates, encode_captions
from ldm.denoiser import NetworkDenoiser, target
from ldm.guidance import ClassifierFreeGuidance
from ldm.networks.unet import UNet, UNetConfig
from ldm.networks.upscaler.model import Upscaler
from ldm.noise import NoiseSource
from ldm.samplers import SAMPLERS
from ldm.schedules import make_grid
from ldm.training.batches.sample_order import generator_for
from ldm.training.diffusion.config import DiffusionConfig
from ldm.training.diffusion.noising import draw_normal, draw_uniform, perturbed, with_offset, with_pyramid
from ldm.training.diffusion.times import TIME_SAMPLING, stratify
from ldm.training.diffusion.weighting import loss_weight
from ldm.training.objectives.base import Batch
from ldm.training.objectives.concat_conditions import (
    CONCAT_CONDITIONS,
    Concat,
    Source,
    check_concat,
)


@dataclass(frozen=True)
class FrozenParts:
    """The frozen networks around the denoiser, which are exported with it.

    Attributes:
        text: the text encoder; None for a denoiser of labels, or without conditioning.
        states: outputs of `text`, kept on disk; without them it runs in every step.
    """

    autoencoder: Autoencoder
    latent_format: LatentFormat
    text: ClipTextEncoder | None = None
    upscaler: Upscaler | None = None
    states: TextStates | None = None

    def conditioning(self, captions: Sequence[str], device: torch.device) -> Conditioning:
        """Token states and pooled states of captions, on `device`. There must be a text encoder."""
        if self.states is not None:
            return self.states.encode(captions, device)
        assert self.text is not None
        return encode_captions(self.text, captions, device)


class LatentDiffusionObjective:
    """Trains a U-Net on latents, conditioned on text, labels, sizes, channels of its own making, or on nothing.

    Batches hold cached latents (`mean`, `std`, as `LatentDataset` gives them) or pictures (`image`), which are then
    encoded in every step; a concat condition needs the pictures in either case.

    Args:
        unet: fp32, with `in_channels` of the latent and of the concat condition.
        frozen: the finished parts of the model.
        config: noise, target, weights.
        batch_size: samples of an optimizer step in the whole training, over which times are spread evenly.
        seed: of the training.

    Raises:
        ValueError: see `require_fit`.
    """

    def __init__(
        self,
        unet: UNet,
        frozen: FrozenParts,
        config: DiffusionConfig,
        batch_size: int = 1,
        seed: int = 0,
    ) -> None:
        require_fit(unet.config, frozen, config)
        trained = unet.requires_grad_(True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trained_modules: dict[str, nn.Module] = {"unet": trained}
        self.frozen = frozen
        for part in (frozen.autoencoder, frozen.text):
            if part is not None:
                part.eval().requires_grad_(False)
        self._unet_config = unet.config
        self.config = config
        self._process = config.make_process()
        self._strata = batch_size if config.stratified else 1
        self._seed = seed

    def loss(
        self, module_name: str, batch: Batch, generators: list[torch.Generator], samples_seen: int
    ) -> dict[str, Tensor]:
        """Mean weighted squared error of the prediction over the batch."""
        config, process, network = self.config, self._process, self.trained_modules[module_name]
        device = next(network.parameters()).device
        latent = self._latent(batch, generators, device)
        noise = draw_normal(latent.shape[1:], generators).to(device)
        time = self._times(batch["index"], draw_uniform(generators))
        dropped = draw_uniform(generators) < config.condition_dropout
        conditioning = self._conditioning(batch, dropped.tolist(), generators, device)
        noise = with_pyramid(noise, generators, config.pyramid_discount)
        noise = with_offset(noise, generators, config.offset_noise)
        shown = perturbed(noise, generators, config.input_perturbation)
        error = self._error(network, latent, noise, shown, time, conditioning)
        alpha, sigma = process.levels(time)
        weight = loss_weight((alpha / sigma) ** 2, config.prediction_type, config.weighting, config.weight_numbers)
        return {"loss": (weight.to(error) * error).mean(), "unweighted": error.mean().detach()}

    def errors(
        self, batch: Batch, modules: dict[str, nn.Module], generators: list[torch.Generator], quantiles: Tensor
    ) -> Tensor:
        """See `ldm.training.objectives.base.Validated`; the axis of times is that of training indices, evenly."""
        network = modules["unet"]
        device = next(network.parameters()).device
        latent = self._latent(batch, generators, device)
        noise = draw_normal(latent.shape[1:], generators).to(device)
        time = TIME_SAMPLING["uniform"](quantiles, self._process, 0.0, 1.0)
        conditioning = self._conditioning(batch, [False] * len(latent), generators, device)
        return self._error(network, latent, noise, noise, time, conditioning)

    def preview(self, batch: Batch, modules: dict[str, nn.Module]) -> dict[str, Tensor]:
        """Pictures for the batch's captions or labels, from noise that is fixed per place in the batch."""
        config, process = self.config, self._process
        n, device = len(batch["index"]), next(modules["unet"].parameters()).device
        noise = NoiseSource(range(n), (self.frozen.latent_format.channels, *self._latent_size(batch)), device)
        conditioning, unconditional = (
            self._conditioning(batch, [drop] * n, [generator_for(0, i) for i in range(n)], device)
            for drop in (False, True)
        )
        denoise = NetworkDenoiser(modules["unet"], process, config.prediction_type, conditioning)
        guided = ClassifierFreeGuidance(denoise, unconditional, config.guidance_scale)
        grid = make_grid("trailing", process, config.steps)
        latent = process.initial(noise(), grid[0])
        for step in SAMPLERS["ddim"](guided, latent, grid, noise):
            latent = step.x
        autoencoder = self.frozen.autoencoder.to(device)
        pictures = autoencoder.decode(self.frozen.latent_format.to_autoencoder(latent).float()).float()
        return {"pictures": pictures / 2 + 0.5}

    def _error(
        self, network: nn.Module, latent: Tensor, noise: Tensor, shown: Tensor, time: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """Squared error (B,) of the prediction of `noise` in `latent` by a network that sees `shown` in its place."""
        process = self._process
        seen = process.scale_input(process.add_noise(latent, shown, time), time)
        output = network(
            seen.contiguous(memory_format=torch.channels_last),
            process.model_time(time).float().to(latent.device),
            conditioning,
        )
        alpha, sigma = process.levels(time)
        return (
            (output.float() - target(latent, noise, alpha, sigma, self.config.prediction_type)).square().mean((1, 2, 3))
        )

    def _latent(self, batch: Batch, generators: list[torch.Generator], device: torch.device) -> Tensor:
        """A sample of each posterior (B, C, h, w), fp32, as the denoiser sees it."""
        if "mean" in batch:
            mean, std = batch["mean"].to(device).float(), batch["std"].to(device).float()
        else:
            mean, std = (
                encode_moments(self.frozen.autoencoder.to(device), batch["image"].to(device)).float().chunk(2, 1)
            )
        return self.frozen.latent_format.to_model(mean + std * draw_normal(mean.shape[1:], generators).to(device))

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

    def _times(self, index: Tensor, draws: Tensor) -> Tensor:
        """Training times (B,), float64 on the CPU; `draws` are uniform, one per sample."""
        config = self.config
        quantiles = stratify(index, draws, self._strata, self._seed)
        return TIME_SAMPLING[config.time_sampling](quantiles, self._process, config.time_mean, config.time_std)

    def _conditioning(
        self, batch: Batch, dropped: list[bool], generators: list[torch.Generator], device: torch.device
    ) -> Conditioning:
        """All conditions that the network has an input for, without words and label where `dropped`."""
        unet, conditioning = self._unet_config, Conditioning()
        if self.frozen.text is not None:
            captions = ["" if drop else caption for caption, drop in zip(batch["caption"], dropped, strict=True)]
            conditioning = self.frozen.conditioning(captions, device)
        if unet.pooled_dim is not None:
            conditioning = replace(conditioning, sizes=_required(batch, "sizes", "unet.size_embedding_dim"))
        if self.config.concat:
            concat = self._concat(batch, generators, device)
            conditioning = replace(conditioning, concat=concat.channels, labels=concat.labels)
        if unet.num_classes is not None and conditioning.labels is None:
            null = unet.num_classes - 1  # the last class stands for "no class"
            labels = _required(batch, "label", "unet.num_classes").tolist()
            dropped_labels = [null if drop else label for label, drop in zip(labels, dropped, strict=True)]
            conditioning = replace(conditioning, labels=torch.tensor(dropped_labels))
        return conditioning.to(device, torch.float32)

    def _concat(self, batch: Batch, generators: list[torch.Generator], device: torch.device) -> Concat:
        pictures = _required(batch, "image", "diffusion.concat").to(device)
        source = Source(pictures, self._latent_size(batch), generators, self._encode, self.config.noise_levels)
        return CONCAT_CONDITIONS[self.config.concat](source)


def require_fit(unet: UNetConfig, frozen: FrozenParts, config: DiffusionConfig) -> None:
    """Refuse a network that has no place for its conditions.

    Raises:
        ValueError: its channels, classes or vector inputs do not fit; names the fields.
    """
    check_concat(config.concat, unet, frozen.latent_format.channels, config.noise_levels)
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
    return batch[key]
