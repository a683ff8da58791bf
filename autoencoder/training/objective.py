"""Training an autoencoder: pixel, perceptual, latent and adversarial loss (Esser et al. 2021, arXiv:2012.09841)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoencoder.build import Autoencoder
from autoencoder.config import LossConfig
from autoencoder.training.adversarial import Adversary, carry, channels_last, gradient_at, weighted_mean
from autoencoder.training.perceptual import PerceptualDistance
from autoencoder.training.sharpness import flatness_distance, sharpness_distance
from autoencoder.training.trainable import Part, Trained, trained


class AutoencoderObjective:
    """The losses of the trained modules "autoencoder" and, when discriminator_weight > 0, "discriminator".

    The losses are differentiated at the reconstruction first, see `autoencoder.training.adversarial`.
    """

    def __init__(self, autoencoder: Autoencoder, loss: LossConfig, decoder_only: bool = False) -> None:
        """decoder_only: keep encoder, quant_conv and codebook as they are, and with them every latent, to the last bit.

        Raises:
            ValueError: a perceptual loss for pictures that are not of 3 channels.
        """
        config = autoencoder.config
        if loss.perceptual_weight > 0 and config.in_channels != 3:
            raise ValueError(
                f"perceptual_weight={loss.perceptual_weight} needs pictures of 3 channels, not "
                f"in_channels={config.in_channels}; use perceptual_weight=0"
            )
        self.config = loss
        self.autoencoder = channels_last(autoencoder)
        self._trained = trained(autoencoder, loss, decoder_only)
        self.trained_modules: dict[str, nn.Module] = {"autoencoder": self._trained}
        self._adversary: Adversary | None = None
        if loss.discriminator_weight > 0:
            self._adversary = Adversary(loss, config.in_channels)
            self.trained_modules["discriminator"] = self._adversary.discriminator
        self.perceptual: PerceptualDistance | None = None
        if loss.perceptual_weight > 0:
            self.perceptual = channels_last(PerceptualDistance())

    def loss(
        self, module_name: str, batch: dict, generators: list[torch.Generator], samples_seen: int
    ) -> dict[str, Tensor] | None:
        """The loss of one trained module on one batch.

        Args:
            module_name: "autoencoder" or "discriminator"; in a step the autoencoder comes first.
            batch: "image" is (B, 3, H, W) in [-1, 1].
            generators: one CPU generator per sample; sample i's posterior noise comes from generators[i].
            samples_seen: the training's clock, compared with discriminator_start.

        Returns:
            "loss" to differentiate and scalars to log, or None while the discriminator waits for its start.
        """
        image, adversary = batch["image"], self._adversary
        if adversary is not None and not adversary.has_begun(samples_seen):
            adversary = None
        if module_name == "autoencoder":
            return self._autoencoder_loss(image, generators, adversary)
        return None if adversary is None else adversary.loss(image, lambda: self._pairs(image, generators))

    def _autoencoder_loss(
        self, image: Tensor, generators: list[torch.Generator], adversary: Adversary | None
    ) -> dict[str, Tensor]:
        made = self._trained(image.contiguous(memory_format=torch.channels_last), generators)
        found = [(len(part.target), self._part_loss(image, part, adversary)) for part in made.parts]
        scalars = weighted_mean(found)
        loss = scalars.pop("loss") + made.penalty
        return {"loss": loss} | {name: value.detach().clone() for name, value in (scalars | made.logs).items()}

    def _part_loss(self, image: Tensor, part: Part, adversary: Adversary | None) -> dict[str, Tensor]:
        """The scalars of those samples of the batch `image` that were decoded together."""
        config, output, target, logvar = self.config, part.output, part.target, self._trained.logvar
        # From here on a leaf: what the losses say about the picture is one tensor, `direction`.
        x = output.detach().float().requires_grad_()
        error = x - target.float()
        l1, l2 = error.abs().mean(), error.square().mean()
        reconstruction = config.l1_weight * l1 + config.l2_weight * l2
        logs = {"l1": l1, "psnr": psnr(x.detach(), target)}
        if self.perceptual is not None:
            share = math.ceil(config.perceptual_fraction * len(x))
            perceptual = self.perceptual.to(x.device)(x[:share], target[:share]).mean()
            reconstruction = reconstruction + config.perceptual_weight * perceptual
            logs["perceptual"] = perceptual
        if config.sharpness_weight > 0:
            logs["sharpness"] = sharpness_distance(x, target)
            reconstruction = reconstruction + config.sharpness_weight * logs["sharpness"]
        if config.flatness_weight > 0:
            logs["flatness"] = flatness_distance(x, target)
            reconstruction = reconstruction + config.flatness_weight * logs["flatness"]
        direction = gradient_at(x, reconstruction)
        total = reconstruction.detach()
        if logvar is not None:
            direction = direction * torch.exp(-logvar.detach())
            total = total * torch.exp(-logvar) + logvar
            logs["logvar"] = logvar
        if adversary is not None:
            last_layer = self.autoencoder.decoder.conv_out.weight
            push, value, found = adversary.term(image, target, output, x, last_layer, direction)
            direction, total = direction + push, total + value
            logs |= found
        return {"loss": carry(total, output, direction)} | logs

    def _pairs(self, image: Tensor, generators: list[torch.Generator]) -> list[tuple[Tensor, Tensor]]:
        """Targets and what is made of them."""
        return [(part.target, part.output) for part in self._trained(image, generators).parts]

    @torch.no_grad()
    def preview(self, batch: dict, modules: dict[str, nn.Module]) -> dict[str, Tensor]:
        """Inputs above their reconstructions: {"reconstruction": (B, 3, 2 H, W) in [0, 1]}."""
        image = batch["image"]
        model = _model(modules)
        output = model.decode(model.encode(image.contiguous(memory_format=torch.channels_last)).mean)
        pair = torch.cat([image.float(), output.float()], dim=2)
        return {"reconstruction": (pair * 0.5 + 0.5).clamp(0.0, 1.0)}


def _model(modules: dict[str, nn.Module]) -> Autoencoder:
    module_name = modules["autoencoder"]
    assert isinstance(module_name, Trained)
    return module_name.model


def psnr(x: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, mean over the batch, of pictures (B, 3, H, W) in [-1, 1] (x is clamped)."""
    mse = F.mse_loss(x.float().clamp(-1.0, 1.0), target.float(), reduction="none").flatten(1).mean(1)
    return (10.0 * torch.log10(4.0 / mse.clamp_min(1e-10))).mean()
