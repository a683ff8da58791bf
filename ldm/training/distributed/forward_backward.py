"""A trained module's loss, forward and backward, in all processes together."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ldm.training.objectives.base import Batch, Objective


class LossModule(nn.Module):
    """A loss as a module's forward pass, which is what data-parallel wrappers (DDP, FSDP) expect.

    autocast: opened inside the forward pass.
    """

    def __init__(
        self, objective: Objective, module_name: str, autocast: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        super().__init__()
        self.module = objective.trained_modules[module_name]
        self._objective = objective
        self._module_name = module_name
        self._autocast = autocast

    def forward(self, batch: Batch, generators: list[torch.Generator], samples_seen: int) -> dict[str, Tensor] | None:
        """The scalars of one batch, see `Objective.loss`."""
        with self._autocast():
            return self._objective.loss(self._module_name, batch, generators, samples_seen)


class ForwardBackward:
    """The passes of a lone process, of replicas (DDP) and of parts (FSDP).

    Args:
        accelerator: of the training.
        loss: a `LossModule` that is wrapped already.
    """

    def __init__(self, accelerator: Accelerator, loss: nn.Module) -> None:
        self._accelerator, self._loss = accelerator, loss

    def forward(
        self, batch: Batch, generators: list[torch.Generator], samples_seen: int, last: bool
    ) -> dict[str, Tensor] | None:
        """The scalars of one micro-batch, which is the `last` of an optimizer step or not.

        Until the last one replicas keep their gradients to themselves. Parts do not: a process would have to hold the
        gradient of every weight.
        """
        loss = self._loss
        with loss.no_sync() if isinstance(loss, DistributedDataParallel) and not last else nullcontext():
            return loss(batch, generators, samples_seen)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss` (), of which it is the mean over processes that counts."""
        self._accelerator.backward(loss)
