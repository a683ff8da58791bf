"""The processes of a training: how they start, and how they share networks. accelerate does it, or our sharding, or
DeepSpeed."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin, InitProcessGroupKwargs
from torch import nn

from ldm.training.config import LoopConfig
from ldm.training.distributed.forward_backward import LossOf, Passes
from ldm.training.distributed.fsdp import Sharding, require_splittable
from ldm.training.distributed.zero import Zero, ZeroPasses, ZeroUpdate, require_deepspeed
from ldm.training.objectives.base import Objective
from ldm.training.optimization.trained_module import Player

_PATIENCE = timedelta(hours=2)  # that processes wait for the one which draws previews or writes; a dead one is noticed
_DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"


def join() -> torch.device:
    """Join the processes that the launcher started, if that was not done yet. Returns this one's device."""
    with _deepspeed_hidden():
        return PartialState(cpu=_is_set("ACCELERATE_USE_CPU"), timeout=_PATIENCE).device


def start(mixed_precision: str) -> Accelerator:
    """Join the processes, with autocast to `mixed_precision` (accelerate's name)."""
    with _deepspeed_hidden():
        return Accelerator(mixed_precision=mixed_precision, kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)])


def share(
    accelerator: Accelerator, objective: Objective, config: LoopConfig
) -> tuple[dict[str, Player], dict[str, Passes]]:
    """The players of an objective on their devices, and the passes of their losses, which all processes share.

    Raises:
        ValueError: see `Player.build`, `Sharding.asked_for`, `Zero.asked_for`, `require_splittable` and
            `require_deepspeed`.
    """
    make: Callable[[str, LossOf, LoopConfig], tuple[Player, Passes]] = partial(_replica, accelerator)
    if _is_set("ACCELERATE_USE_FSDP"):
        sharding = Sharding.asked_for(accelerator, FullyShardedDataParallelPlugin())
        if sharding is not None:
            require_splittable(objective.players, "FSDP")
            make = partial(_parts, accelerator, sharding)
    if _is_set(_DEEPSPEED):
        zero = Zero.asked_for(accelerator, DeepSpeedPlugin())
        if zero is not None:
            require_splittable(objective.players, "DeepSpeed")
            require_deepspeed(objective.players, config)
            make = partial(_zero, accelerator, zero)
    made = {name: make(name, LossOf(objective, name, accelerator.autocast), config) for name in objective.players}
    return {name: player for name, (player, _) in made.items()}, {name: passes for name, (_, passes) in made.items()}


def _replica(accelerator: Accelerator, name: str, loss: LossOf, config: LoopConfig) -> tuple[Player, Passes]:
    player = Player.build(name, loss.module.to(accelerator.device), config)
    return player, Passes(accelerator, accelerator.prepare(loss))


def _parts(
    accelerator: Accelerator, sharding: Sharding, name: str, loss: LossOf, config: LoopConfig
) -> tuple[Player, Passes]:
    def split(averages: list[nn.Module]) -> None:
        for module in (loss, *averages):
            sharding.split(module)

    return Player.build(name, loss.module, config, split), Passes(accelerator, loss)


def _zero(accelerator: Accelerator, zero: Zero, name: str, loss: LossOf, config: LoopConfig) -> tuple[Player, Passes]:
    module = loss.module.to(accelerator.device)
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as DeepSpeed lays it out
    player = Player.build(name, module, config)
    engine = zero.engine(loss, player.optimizers[0])
    update = ZeroUpdate(module, player.optimizers, engine, accelerator.process_index)
    return replace(player, update=update), ZeroPasses(accelerator, engine)


@contextmanager
def _deepspeed_hidden() -> Iterator[None]:
    """accelerate would leave precision and steps to DeepSpeed's engine; `Zero` drives the engine itself."""
    asked = os.environ.pop(_DEEPSPEED, None)
    try:
        yield
    finally:
        if asked is not None:
            os.environ[_DEEPSPEED] = asked


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"
