"""One trained network with all that its training carries along: weight averages and optimizers."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.training.config import LoopConfig
from ldm.training.ema import Ema
from ldm.training.optimizers import build_optimizers


@dataclass(frozen=True)
class Player:
    """A module in training.

    Attributes:
        module: the weights in training; those that require gradients are fp32.
        averages: moving averages of its weights, the main one first.
        optimizers: together they hold every parameter that requires a gradient, each once.
    """

    module: nn.Module
    averages: list[Ema]
    optimizers: list[Optimizer]

    @staticmethod
    def build(name: str, module: nn.Module, config: LoopConfig) -> "Player":
        """The player `name` with fresh averages and optimizers.

        Raises:
            ValueError: a trainable parameter is not fp32 (small updates would be rounded away), or the optimizer
                cannot be had.
        """
        for key, parameter in module.named_parameters():
            if parameter.requires_grad and parameter.dtype != torch.float32:
                raise ValueError(
                    f"{name}: {key} is {str(parameter.dtype).removeprefix('torch.')}, but trainable parameters must be"
                    " float32; load the model in float32 and choose the arithmetic with loop.precision"
                )
        averages = [Ema(module, half_life) for half_life in config.half_lives]
        return Player(module, averages, build_optimizers(module, config))

    def start(self, rate: float) -> None:
        """Prepare an optimizer step at learning rate `rate`."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)

    def gradient_norm(self) -> Tensor:
        """The length of the whole gradient (); not finite if any part of it is not."""
        gradients = [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def step(self, norm: Tensor, clip_norm: float, batch: int, samples_seen: int) -> None:
        """Clip the gradient of length `norm`, move the weights, and let the averages follow.

        `batch` samples went into the gradient, the `samples_seen`-th included.
        """
        if clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self.module.parameters(), clip_norm, norm)
        for optimizer in self.optimizers:
            optimizer.step()
        for average in self.averages:
            average.update(self.module, batch, samples_seen)

    @torch.no_grad()
    def skip(self) -> None:
        """Forget a step that was not finite, also what its forward pass left in buffers (batch statistics)."""
        for buffer, good in zip(self.module.buffers(), self.averages[0].module.buffers(), strict=True):
            buffer.copy_(good)

    def weights(self, half_life: float | None) -> nn.Module:
        """The average of `half_life`; `None` is the main one, 0 a copy of the newest weights."""
        if half_life == 0:
            return copy.deepcopy(self.module).eval().requires_grad_(False)
        chosen = {average.half_life: average.module for average in self.averages}
        return self.averages[0].module if half_life is None else chosen[half_life]
