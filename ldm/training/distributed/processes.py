"""The processes of a training: how they start, and how they share networks, by accelerate or by our sharding."""

import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin, InitProcessGroupKwargs
from torch import nn

from ldm.training.config import LoopConfig
from ldm.training.distributed.forward_backward import ForwardBackward, LossModule
from ldm.training.distributed.fsdp import Sharding, require_splittable
from ldm.training.objectives.base import Objective
from ldm.training.optimization.trained_module import TrainedModule

_PATIENCE = timedelta(hours=2)  # that processes wait for the one which draws previews or writes; a dead one is noticed


def init_processes() -> torch.device:
    """Join the processes that the launcher started, if that was not done yet. Returns this one's device.

    Raises:
        ValueError: accelerate was launched with DeepSpeed.
    """
    _refuse_deepspeed()
    return PartialState(cpu=_on_cpu(), timeout=_PATIENCE).device


def make_accelerator(mixed_precision: str) -> Accelerator:
    """Join the processes, with autocast to `mixed_precision` (accelerate's name).

    Raises:
        ValueError: accelerate was launched with DeepSpeed.
    """
    _refuse_deepspeed()
    patience = InitProcessGroupKwargs(timeout=_PATIENCE)
    return Accelerator(cpu=_on_cpu(), mixed_precision=mixed_precision, kwargs_handlers=[patience])


def prepare_modules(
    accelerator: Accelerator, objective: Objective, config: LoopConfig
) -> tuple[dict[str, TrainedModule], dict[str, ForwardBackward]]:
    """The trained modules of an objective on their devices, and the passes of their losses, which all processes share.

    Raises:
        ValueError: see `TrainedModule.build`, `Sharding.requested_by` and `require_splittable`.
    """
    make: Callable[[str, LossModule, LoopConfig], tuple[TrainedModule, ForwardBackward]] = partial(
        _replica, accelerator
    )
    if _is_set("ACCELERATE_USE_FSDP"):
        sharding = Sharding.requested_by(accelerator, FullyShardedDataParallelPlugin())
        if sharding is not None:
            require_splittable(objective.trained_modules)
            make = partial(_parts, accelerator, sharding)
    made = {
        name: make(name, LossModule(objective, name, accelerator.autocast), config)
        for name in objective.trained_modules
    }
    return {name: trained_module for name, (trained_module, _) in made.items()}, {
        name: forward_backward for name, (_, forward_backward) in made.items()
    }


def _replica(
    accelerator: Accelerator, name: str, loss: LossModule, config: LoopConfig
) -> tuple[TrainedModule, ForwardBackward]:
    trained_module = TrainedModule.build(name, loss.module.to(accelerator.device), config)
    return trained_module, ForwardBackward(accelerator, accelerator.prepare(loss))


def _parts(
    accelerator: Accelerator, sharding: Sharding, name: str, loss: LossModule, config: LoopConfig
) -> tuple[TrainedModule, ForwardBackward]:
    def split(averages: list[nn.Module]) -> None:
        for module in (loss, *averages):
            sharding.split(module)

    return TrainedModule.build(name, loss.module, config, split), ForwardBackward(accelerator, loss)


def _refuse_deepspeed() -> None:
    if _is_set("ACCELERATE_USE_DEEPSPEED"):
        raise ValueError(
            "accelerate was launched with DeepSpeed, which is not supported; launch with --config_file"
            " configs/accelerate/fsdp2-zero2.yaml, which splits the same by FSDP"
        )


def _on_cpu() -> bool:
    """Whether accelerate is to be told that this is a CPU: there `torchrun`'s processes find each other only then."""
    several = "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    return _is_set("ACCELERATE_USE_CPU") or (several and not torch.accelerator.is_available())


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"
