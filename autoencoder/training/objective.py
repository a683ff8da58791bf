"""Training an autoencoder: pixel, perceptual, latent and adversarial loss (Esser et al. 2021, arXiv:2012.09841)."""

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoencoder.build import Autoencoder
from autoencoder.config import LossConfig
from autoencoder.training.discriminator import PatchDiscriminator, hinge_discriminator_loss, hinge_generator_loss
from autoencoder.training.perceptual import PerceptualDistance
from autoencoder.training.trainable import Trained, trained

AnyModule = TypeVar("AnyModule", bound=nn.Module)

ADAPTIVE_EPSILON = 1e-4
"""What the adaptive weight adds to the adversarial gradient's norm, as the published VQGAN does (1e-6 in the paper)."""


class AutoencoderObjective:
    """The losses of the trained modules "autoencoder" and, when discriminator_weight > 0, "discriminator".

    The losses are differentiated at the reconstruction first: reconstruction and adversarial gradient meet there, are
    balanced, and one backward pass carries their sum through the autoencoder. So the adaptive weight costs two weight
    gradients of one convolution, and the discriminator's parameters never see the autoencoder's loss.
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
        self.autoencoder = _channels_last(autoencoder)
        self._trained = trained(autoencoder, loss, decoder_only)
        self.trained_modules: dict[str, nn.Module] = {"autoencoder": self._trained}
        if loss.discriminator_weight > 0:
            judge = PatchDiscriminator(config.in_channels, loss.discriminator_width, loss.discriminator_levels)
            self.trained_modules["discriminator"] = _channels_last(judge)
        self.perceptual: PerceptualDistance | None = None
        if loss.perceptual_weight > 0:
            self.perceptual = _channels_last(PerceptualDistance())
        # The discriminator judges the very reconstruction that the autoencoder was just scored on.
        self._last: tuple[Tensor, Tensor] | None = None

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
        adversarial = "discriminator" in self.trained_modules and samples_seen >= self.config.discriminator_start
        if module_name == "discriminator":
            return self._discriminator_loss(batch["image"], generators) if adversarial else None
        return self._autoencoder_loss(batch["image"], generators, adversarial)

    def _autoencoder_loss(
        self, image: Tensor, generators: list[torch.Generator], adversarial: bool
    ) -> dict[str, Tensor]:
        config = self.config
        target = image.contiguous(memory_format=torch.channels_last)
        made = self._trained(target, generators)
        output, logvar = made.output, self._trained.logvar
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
        # Times the number of values, or fp16 would lose the gradient of a mean.
        (direction,) = torch.autograd.grad(reconstruction * x.numel(), x)
        total = reconstruction.detach()
        if logvar is not None:
            direction = direction * torch.exp(-logvar.detach())
            total = total * torch.exp(-logvar) + logvar
            logs["logvar"] = logvar

        if adversarial:
            generator_loss = hinge_generator_loss(self.trained_modules["discriminator"](x))
            (push,) = torch.autograd.grad(generator_loss * x.numel(), x)
            weight = config.discriminator_weight * adaptive_weight(
                output, self.autoencoder.decoder.conv_out.weight, direction, push
            )
            direction = direction + weight * push
            total = total + weight * generator_loss.detach()
            logs |= {"generator": generator_loss, "adaptive_weight": weight}
            self._last = (image, x.detach())

        # The value is the loss; the gradient is `direction` through the autoencoder.
        carrier = (output.float() * direction).mean()
        loss = total + (carrier - carrier.detach()) + made.penalty
        return {"loss": loss} | {name: value.detach().clone() for name, value in (logs | made.logs).items()}

    def _discriminator_loss(self, image: Tensor, generators: list[torch.Generator]) -> dict[str, Tensor]:
        if self._last is not None and self._last[0] is image:
            fake = self._last[1]
        else:
            with torch.no_grad():
                fake = self._trained(image, generators).output.float()
        self._last = None
        both = torch.cat([image.float(), fake]).contiguous(memory_format=torch.channels_last)
        real_logits, fake_logits = self.trained_modules["discriminator"](both).float().chunk(2)
        loss = hinge_discriminator_loss(real_logits, fake_logits)
        return {"loss": loss, "real": real_logits.detach().mean(), "fake": fake_logits.detach().mean()}

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


def _channels_last(module: AnyModule) -> AnyModule:
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def adaptive_weight(output: Tensor, last_layer: Tensor, reconstruction: Tensor, adversarial: Tensor) -> Tensor:
    """VQGAN's balance of the two losses, |grad_w L_rec| / (|grad_w L_adv| + 1e-4), at most 1e4 (Esser 2021, eq. 7).

    Args:
        output: the decoder's output (B, 3, H, W), with its graph.
        last_layer: the weight w of the convolution that made it.
        reconstruction: gradient of the reconstruction loss at the output, times its number of values, (B, 3, H, W).
        adversarial: the same of the adversarial loss.

    Returns:
        A scalar without gradient.
    """
    norms = []
    for direction in (reconstruction, adversarial):
        (gradient,) = torch.autograd.grad(output, last_layer, direction.to(output.dtype), retain_graph=True)
        norms.append(gradient.float().norm() / output.numel())
    return (norms[0] / (norms[1] + ADAPTIVE_EPSILON)).clamp_max(1e4)


def psnr(x: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, mean over the batch, of pictures (B, 3, H, W) in [-1, 1] (x is clamped)."""
    mse = F.mse_loss(x.float().clamp(-1.0, 1.0), target.float(), reduction="none").flatten(1).mean(1)
    return (10.0 * torch.log10(4.0 / mse.clamp_min(1e-10))).mean()
