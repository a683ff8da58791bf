"""The denoiser's objective: predict noise, velocity or picture of a noised latent at a random time."""

import torch
from torch import Tensor, nn

from conditioning.bundle import Conditioning
from ldm.denoiser import NetworkDenoiser, target
from ldm.engine.placement import send
from ldm.guidance import ClassifierFreeGuidance
from ldm.networks.unet import UNet
from ldm.process import Process
from ldm.training.batches.sample_order import generator_for
from ldm.training.diffusion.config import DiffusionConfig
from ldm.training.diffusion.noising import draw_normal, draw_uniform, perturbed, with_offset, with_pyramid
from ldm.training.diffusion.times import TIME_SAMPLING, stratify
from ldm.training.diffusion.weighting import loss_weight
from ldm.training.objectives.base import Batch
from ldm.training.objectives.latent_batches import FrozenParts, LatentBatches


class LatentDiffusionObjective:
    """Trains a U-Net on latents, conditioned on text, labels, sizes, channels of its own making, or on nothing.

    Batches are those of `LatentBatches`.

    Args:
        unet: fp32, with `in_channels` of the latent and of the concat condition.
        frozen: the finished parts of the model.
        config: noise, target, weights.
        batch_size: samples of an optimizer step in the whole training, over which times are spread evenly.
        seed: of the training.

    Raises:
        ValueError: see `ldm.training.objectives.latent_batches.require_fit`.
    """

    def __init__(
        self,
        unet: UNet,
        frozen: FrozenParts,
        config: DiffusionConfig,
        batch_size: int = 1,
        seed: int = 0,
    ) -> None:
        self.batches = LatentBatches(frozen, unet.config, config.concat, config.noise_levels)
        trained = unet.requires_grad_(True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trained_modules: dict[str, nn.Module] = {"unet": trained}
        self.frozen = frozen
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
        latent = self.batches.latent(batch, generators, device)
        noise = send(draw_normal(latent.shape[1:], generators), device)
        time = self._times(batch["index"], draw_uniform(generators))
        dropped = draw_uniform(generators) < config.condition_dropout
        conditioning = self.batches.conditioning(batch, dropped.tolist(), generators, device)
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
        latent = self.batches.latent(batch, generators, device)
        noise = send(draw_normal(latent.shape[1:], generators), device)
        time = TIME_SAMPLING["uniform"](quantiles, self._process, 0.0, 1.0)
        conditioning = self.batches.conditioning(batch, [False] * len(latent), generators, device)
        return self._error(network, latent, noise, noise, time, conditioning)

    def preview(self, batch: Batch, modules: dict[str, nn.Module]) -> dict[str, Tensor]:
        """Pictures for the batch's captions or labels, from noise that is fixed per place in the batch; real ones."""
        n, device = len(batch["index"]), next(modules["unet"].parameters()).device
        conditioning, unconditional = (
            self.batches.conditioning(batch, [drop] * n, [generator_for(0, i) for i in range(n)], device)
            for drop in (False, True)
        )
        denoise = NetworkDenoiser(modules["unet"], self._process, self.config.prediction_type, conditioning)
        guided = ClassifierFreeGuidance(denoise, unconditional, self.config.guidance_scale)
        pictures = self.batches.draw(batch, guided, self.config.steps, device)
        return {"pictures": pictures, "real": self.batches.real(batch, pictures)}

    def _error(
        self, network: nn.Module, latent: Tensor, noise: Tensor, shown: Tensor, time: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """Squared error (B,) of the prediction of `noise` in `latent` by a network that sees `shown` in its place."""
        process = self._process
        output = network_output(network, process, process.add_noise(latent, shown, time), time, conditioning)
        alpha, sigma = process.levels(time)
        return (output - target(latent, noise, alpha, sigma, self.config.prediction_type)).square().mean((1, 2, 3))

    def _times(self, index: Tensor, draws: Tensor) -> Tensor:
        """Training times (B,), float64 on the CPU; `draws` are uniform, one per sample."""
        config = self.config
        quantiles = stratify(index, draws, self._strata, self._seed)
        return TIME_SAMPLING[config.time_sampling](quantiles, self._process, config.time_mean, config.time_std)


def network_output(
    network: nn.Module, process: Process, x: Tensor, time: Tensor, conditioning: Conditioning | None
) -> Tensor:
    """The output (B, C, h, w), fp32, of a network in training for `x` at times (B,)."""
    output: Tensor = network(
        process.scale_input(x, time).contiguous(memory_format=torch.channels_last),
        process.model_time(time).float().to(x.device),
        conditioning,
    )
    return output.float()
