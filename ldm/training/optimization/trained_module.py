"""One trained network with all that its training carries along: weight averages and optimizers."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.training.config import LoopConfig
from ldm.training.distributed.fsdp import gathered, is_sharded
from ldm.training.optimization.blockwise import prepare_blocks
from ldm.training.optimization.ema import Ema
from ldm.training.optimization.optimizer_step import Update
from ldm.training.optimization.optimizers import build_optimizers


@dataclass(frozen=True)
class TrainedModule:
    """A module in training.

    Attributes:
        module: the weights in training; those that require gradients are fp32.
        averages: moving averages of its weights, the main one first.
        update: how its weights move, with the optimizers.
        plain: `module` without weights, as it was before it was compiled, checkpointed and sharded.
    """

    module: nn.Module
    averages: list[Ema]
    update: Update
    plain: nn.Module

    @staticmethod
    def build(
        name: str, module: nn.Module, config: LoopConfig, split: Callable[[list[nn.Module]], None] | None = None
    ) -> "TrainedModule":
        """The module `name` with fresh averages and optimizers.

        Args:
            name: of the module, for errors.
            module: the network.
            config: of the loop.
            split: shards `module` and the averages, which it is given.

        Raises:
            ValueError: a trainable parameter is not fp32 (small updates would be rounded away), the optimizer cannot
                be had, or the network cannot be compiled or checkpointed.
        """
        for key, parameter in module.named_parameters():
            if parameter.requires_grad and parameter.dtype != torch.float32:
                raise ValueError(
                    f"{name}: {key} is {str(parameter.dtype).removeprefix('torch.')}, but trainable parameters must be"
                    " float32; load the model in float32 and choose the arithmetic with loop.precision"
                )
        averages, plain = [Ema(module, half_life) for half_life in config.half_lives], _without_weights(module)
        prepare_blocks(name, module, config)
        if split is not None:
            split([average.module for average in averages])
        return TrainedModule(module, averages, Update(module, build_optimizers(module, config)), plain)

    def trained_state(self, module: nn.Module) -> dict[str, Tensor]:
        """The state of `module`, this one or an average of it, without parameters that are frozen in this one."""
        frozen = frozen_names(self.module)
        return {name: value for name, value in module.state_dict().items() if name not in frozen}

    @property
    def optimizers(self) -> list[Optimizer]:
        """Together they hold every parameter that requires a gradient, each once."""
        return self.update.optimizers

    def step(self, norm: Tensor, clip_norm: float, batch: int, samples_seen: int) -> None:
        """Clip the gradient of length `norm`, move the weights, and let the averages follow.

        `batch` samples went into the gradient, the `samples_seen`-th included.
        """
        self.update.step(norm, clip_norm)
        for average in self.averages:
            average.update(self.module, batch, samples_seen)

    @torch.no_grad()
    def skip(self) -> None:
        """Forget a step that was not finite, also what its forward pass left in buffers (batch statistics)."""
        for buffer, good in zip(self.module.buffers(), self.averages[0].module.buffers(), strict=True):
            buffer.copy_(good)

    def weights(self, half_life: float | None, keep: bool = True) -> nn.Module:
        """The average of `half_life`, to be looked at; `None` is the main one, 0 the newest weights.

        Sharded weights are put together for it: all processes have to call this at once, and those that do not `keep`
        the result get a network without weights.
        """
        chosen = {average.half_life: average.module for average in self.averages} | {0: self.module}
        module = chosen[self.averages[0].half_life if half_life is None else half_life]
        if module is not self.module and not is_sharded(module):
            return module
        tensors = {name: value.clone() for name, value in gathered(module.state_dict(), keep).items()}
        return _filled(self.plain, module, tensors) if keep else self.plain


def frozen_names(module: nn.Module) -> set[str]:
    """The parameters that are not trained, by all their names."""
    return {name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}


def _without_weights(module: nn.Module) -> nn.Module:
    """A copy on the meta device, made without copying the weights first."""
    parameters = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in module.parameters()}
    return copy.deepcopy(module, {**parameters, **{id(b): b.to("meta") for b in module.buffers()}})


def _filled(plain: nn.Module, module: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """A copy of `plain` with these tensors, and with the buffers of `module` that no state has."""
    found = copy.deepcopy(plain)
    found.load_state_dict(tensors, assign=True)
    for name, buffer in module.named_buffers():
        owner, _, leaf = name.rpartition(".")
        found.get_submodule(owner)._buffers[leaf] = buffer.clone()
    return found.eval().requires_grad_(False)
