"""Training an upscaler: pixel, perceptual and adversarial loss (Ledig et al. 2017, arXiv:1609.04802)."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoencoder.training.adversarial import Adversary, carry, channels_last, gradient_at
from autoencoder.training.objective import psnr
from autoencoder.training.perceptual import PerceptualDistance
from ldm.data.upscaling import UpscalingDataset
from ldm.networks.upscaler.config import UpscalerConfig, UpscalerLossConfig
from ldm.networks.upscaler.model import Upscaler, bicubic

_BLUR_REACH = 2  # taps to each side


class UpscalerObjective:
    """The losses of the trained modules "upscaler" and, when discriminator_weight > 0, "discriminator".

    A batch holds "low" (B, 3, h, w), as an autoencoder decodes it, and "high" (B, 3, factor h, factor w), the truth,
    both in [-1, 1]; the upscaler thus learns to mend the autoencoder's faults as well.
    """

    def __init__(self, config: UpscalerConfig, loss: UpscalerLossConfig) -> None:
        self.config = loss
        self.factor = config.factor
        self.trained_modules: dict[str, nn.Module] = {"upscaler": channels_last(Upscaler(config))}
        self._adversary: Adversary | None = None
        if loss.discriminator_weight > 0:
            self._adversary = Adversary(loss, channels=3)
            self.trained_modules["discriminator"] = self._adversary.discriminator
        self.perceptual: PerceptualDistance | None = None
        if loss.perceptual_weight > 0:
            self.perceptual = channels_last(PerceptualDistance())

    def loss(
        self, module_name: str, batch: dict, generators: list[torch.Generator], samples_seen: int
    ) -> dict[str, Tensor] | None:
        """The loss of one trained module on one batch.

        Args:
            module_name: "upscaler" or "discriminator"; in a step the upscaler comes first.
            batch: "low" and "high", see above.
            generators: one CPU generator per sample; sample i's blur comes from generators[i].
            samples_seen: the training's clock, compared with discriminator_start.

        Returns:
            "loss" to differentiate and scalars to log, or None while the discriminator waits for its start.
        """
        adversary, upscaler = self._adversary, self.trained_modules["upscaler"]
        if adversary is not None and not adversary.has_begun(samples_seen):
            adversary = None
        if module_name == "upscaler":
            return self._upscaler_loss(batch, generators, adversary)
        if adversary is None:
            return None
        high = batch["high"]
        return adversary.loss(high, lambda: [(high, upscaler(self._blurred(batch["low"], generators)))])

    def _upscaler_loss(
        self, batch: dict, generators: list[torch.Generator], adversary: Adversary | None
    ) -> dict[str, Tensor]:
        config = self.config
        high = batch["high"].contiguous(memory_format=torch.channels_last)
        low = self._blurred(batch["low"], generators)
        output = self.trained_modules["upscaler"](low)
        # From here on a leaf: what the losses say about the picture is one tensor, and no other network gets gradients.
        x = output.detach().float().requires_grad_()
        l1 = (x - high).abs().mean()
        logs = {"l1": l1, "psnr": psnr(x.detach(), high), "bicubic_psnr": psnr(bicubic(low, self.factor), high)}
        total = config.l1_weight * l1
        if self.perceptual is not None:
            share = math.ceil(config.perceptual_fraction * len(x))
            logs["perceptual"] = self.perceptual.to(x.device)(x[:share], high[:share]).mean()
            total = total + config.perceptual_weight * logs["perceptual"]
        direction, total = gradient_at(x, total), total.detach()
        if adversary is not None:
            last_layer = self._upscaler().last_layer.weight
            push, value, found = adversary.term(batch["high"], batch["high"], output, x, last_layer, direction)
            direction, total = direction + push, total + value
            logs |= found
        return {"loss": carry(total, output, direction)} | {name: value.detach() for name, value in logs.items()}

    def _blurred(self, low: Tensor, generators: list[torch.Generator]) -> Tensor:
        """low (B, 3, h, w) with a random share of its pictures blurred by a random amount."""
        config = self.config
        draws = torch.stack([torch.rand(2, generator=generator) for generator in generators])
        sigma = config.blur * draws[:, 1] * (draws[:, 0] < config.blurred_fraction)
        return gaussian_blur(low, sigma.to(low.device)) if bool(sigma.any()) else low

    def _upscaler(self) -> Upscaler:
        upscaler = self.trained_modules["upscaler"]
        assert isinstance(upscaler, Upscaler)
        return upscaler

    @torch.no_grad()
    def preview(self, batch: dict, modules: dict[str, nn.Module]) -> dict[str, Tensor]:
        """Bicubic, upscaled and true pictures side by side: {"upscaled": (B, 3, factor h, 3 factor w) in [0, 1]}."""
        ours = modules["upscaler"](batch["low"])
        row = torch.cat([bicubic(batch["low"], self.factor), ours, batch["high"]], dim=3)
        return {"upscaled": (row * 0.5 + 0.5).clamp(0.0, 1.0)}


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each of images (B, C, H, W) with its own standard deviation sigma (B,) in pixels; 0 leaves it as it is."""
    taps = torch.arange(-_BLUR_REACH, _BLUR_REACH + 1, device=images.device)
    kernels = torch.exp(-0.5 * (taps / sigma[:, None].clamp_min(1e-3)).square())
    kernels = kernels / kernels.sum(1, keepdim=True)
    for axis in (2, 3):
        size = images.shape[axis]
        margins = (_BLUR_REACH, _BLUR_REACH, 0, 0) if axis == 3 else (0, 0, _BLUR_REACH, _BLUR_REACH)
        padded = F.pad(images, margins, mode="replicate")
        shifted = [padded.narrow(axis, i, size) * kernels[:, i, None, None, None] for i in range(len(taps))]
        images = torch.stack(shifted).sum(0)
    return images


@dataclass(frozen=True)
class UpscalingQuality:
    """How well pictures are enlarged: mean PSNR in dB of an upscaler and of bicubic on the same inputs."""

    psnr: float
    bicubic_psnr: float
    pictures: int

    @property
    def gain(self) -> float:
        """Decibels above bicubic."""
        return self.psnr - self.bicubic_psnr


@torch.no_grad()
def measure_upscaler(upscaler: Upscaler, dataset: UpscalingDataset, limit: int = 200) -> UpscalingQuality:
    """Compare an upscaler with bicubic on at most `limit` pictures, spread over a data set of whole pictures.

    Raises:
        ValueError: limit is below 1.
    """
    if limit < 1:
        raise ValueError(f"limit={limit} must be at least 1")
    count = min(limit, len(dataset))
    device = upscaler.conv_in.weight.device
    ours, simple = [], []
    for number in range(count):
        pair = dataset.item(number * len(dataset) // count, torch.Generator().manual_seed(0))
        low, high = pair["low"][None].to(device), pair["high"][None].to(device)
        ours.append(float(psnr(upscaler(low), high)))
        simple.append(float(psnr(bicubic(low, upscaler.config.factor), high)))
    return UpscalingQuality(sum(ours) / count, sum(simple) / count, count)
