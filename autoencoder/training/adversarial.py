"""The adversarial part of a picture's loss, balanced against the rest (Esser et al. 2021, arXiv:2012.09841, eq. 7).

Every loss is differentiated at the finished picture first. The gradients of reconstruction and adversary meet there and
are balanced, and one backward pass carries their sum through the network. So the balance costs two weight gradients of
one convolution, and the discriminator's parameters never see the network's loss.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from autoencoder.training.discriminator import PatchDiscriminator, hinge_discriminator_loss, hinge_generator_loss

AnyModule = TypeVar("AnyModule", bound=nn.Module)

ADAPTIVE_EPSILON = 1e-4
"""Added to the adversarial gradient's norm in the adaptive weight, as the published VQGAN does (1e-6 in the paper)."""


class AdversarialRecipe(Protocol):
    """The settings of the adversarial part, which are described where they are defined (`LossConfig`)."""

    @property
    def discriminator_weight(self) -> float:
        """Weight of the adversarial part."""

    @property
    def discriminator_start(self) -> int:
        """Samples seen before the adversarial part begins."""

    @property
    def discriminator_width(self) -> int:
        """Channels after the discriminator's first convolution."""

    @property
    def discriminator_levels(self) -> int:
        """Strided convolutions of the discriminator."""


class Adversary:
    """A discriminator of real and made pictures, and what it adds to the loss of the network that makes them.

    Args:
        recipe: its shape and weight.
        channels: of the pictures.
    """

    def __init__(self, recipe: AdversarialRecipe, channels: int) -> None:
        judge = PatchDiscriminator(channels, recipe.discriminator_width, recipe.discriminator_levels)
        self.discriminator = channels_last(judge)
        self._recipe = recipe
        # The discriminator judges the very pictures that the network was just scored on.
        self._batch: Tensor | None = None
        self._scored: list[tuple[Tensor, Tensor]] = []

    def has_begun(self, samples_seen: int) -> bool:
        """Whether the clock has passed `discriminator_start`."""
        return samples_seen >= self._recipe.discriminator_start

    def term(
        self, batch: Tensor, real: Tensor, output: Tensor, x: Tensor, last_layer: Tensor, direction: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The weighted adversarial term of a network's loss.

        Args:
            batch: of the training, by which `loss` knows what was scored; it may be scored in several parts.
            real: the true pictures (B, C, H, W).
            output: what the network made of them, with its graph.
            x: `output` as a leaf that requires a gradient.
            last_layer: the weight of the convolution that made `output`.
            direction: gradient of the other losses at `x`, times its number of values.

        Returns:
            The term's gradient at `x`, times its number of values; its value (); scalars to log.
        """
        loss = hinge_generator_loss(self.discriminator(x))
        direction_of_loss = gradient_at(x, loss)
        weight = self._recipe.discriminator_weight * adaptive_weight(output, last_layer, direction, direction_of_loss)
        if self._batch is not batch:
            self._batch, self._scored = batch, []
        self._scored.append((real, x.detach()))
        return weight * direction_of_loss, weight * loss.detach(), {"generator": loss, "adaptive_weight": weight}

    def loss(self, batch: Tensor, make: Callable[[], list[tuple[Tensor, Tensor]]]) -> dict[str, Tensor]:
        """The discriminator's own loss; `make` gives real and made pictures where `term` did not just score them."""
        if self._batch is batch:
            pairs = self._scored
        else:
            with torch.no_grad():
                pairs = make()
        self._batch, self._scored = None, []
        return weighted_mean([(len(real), self._judged(real, made)) for real, made in pairs])

    def _judged(self, real: Tensor, made: Tensor) -> dict[str, Tensor]:
        both = torch.cat([real.float(), made.float()]).contiguous(memory_format=torch.channels_last)
        real_logits, made_logits = self.discriminator(both).float().chunk(2)
        loss = hinge_discriminator_loss(real_logits, made_logits)
        return {"loss": loss, "real": real_logits.detach().mean(), "fake": made_logits.detach().mean()}


def weighted_mean(parts: list[tuple[int, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """The mean of scalars over parts of a batch, each of so many samples."""
    samples = sum(count for count, _ in parts)
    return {name: sum_of([count / samples * found[name] for count, found in parts]) for name in parts[0][1]}


def sum_of(tensors: list[Tensor]) -> Tensor:
    """The sum of tensors of one shape."""
    return torch.stack(tensors).sum(0) if len(tensors) > 1 else tensors[0]


def gradient_at(x: Tensor, loss: Tensor) -> Tensor:
    """The gradient of `loss` at the pictures `x`, times their number of values, or fp16 would lose that of a mean."""
    (direction,) = torch.autograd.grad(loss * x.numel(), x)
    return direction


def carry(value: Tensor, output: Tensor, direction: Tensor) -> Tensor:
    """A loss with this value whose gradient is that of `direction` (see `gradient_at`) through `output`."""
    carrier = (output.float() * direction).mean()
    return value + (carrier - carrier.detach())


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


def channels_last(module: AnyModule) -> AnyModule:
    """The module with its weights in the layout that convolutions are fast in."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
