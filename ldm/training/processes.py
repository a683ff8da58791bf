"""The processes of a training: how they start, and how they share networks. accelerate does it, or our sharding."""

import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import partial

from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin, InitProcessGroupKwargs
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ldm.training.config import LoopConfig
from ldm.training.objective import Objective
from ldm.training.player import LossOf, Player
from ldm.training.sharding import Sharding

_PATIENCE = timedelta(hours=2)  # that processes wait for the one which draws previews or writes; a dead one is noticed


def start(mixed_precision: str) -> Accelerator:
    """Join the processes that the launcher started.

    Raises:
        ValueError: accelerate was launched with a way of sharing that does not go with this loop.
    """
    if _is_set("ACCELERATE_USE_DEEPSPEED"):
        raise ValueError(
            "accelerate was launched with DeepSpeed, whose engine steps by itself, so no step could be skipped or "
            "resumed exactly; use configs/accelerate/zero-2.yaml, which splits the same things with FSDP"
        )
    return Accelerator(mixed_precision=mixed_precision, kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)])


def share(
    accelerator: Accelerator, objective: Objective, config: LoopConfig
) -> tuple[dict[str, Player], dict[str, nn.Module]]:
    """The players of an objective on their devices, and their losses, whose gradients all processes share.

    Raises:
        ValueError: see `Player.build`, `Sharding.asked_for` and `Sharding.check`.
    """
    plugin = FullyShardedDataParallelPlugin() if _is_set("ACCELERATE_USE_FSDP") else None
    sharding = Sharding.asked_for(accelerator, plugin)
    losses: dict[str, nn.Module] = {name: LossOf(objective, name) for name in objective.players}
    if sharding is not None:
        sharding.check(objective.players)
        players = {
            name: Player.build(name, module, config, partial(_split, sharding, losses[name]))
            for name, module in objective.players.items()
        }
        return players, losses
    players = {
        name: Player.build(name, module.to(accelerator.device), config) for name, module in objective.players.items()
    }
    return players, {name: accelerator.prepare(loss) for name, loss in losses.items()}


def _split(sharding: Sharding, loss: nn.Module, averages: list[nn.Module]) -> None:
    for module in (loss, *averages):
        sharding.split(module)


def apart(loss: nn.Module) -> AbstractContextManager[None]:
    """While micro-batches accumulate, replicas keep their gradients to themselves.

    Sharded ones do not: a process would have to hold the gradient of every weight.
    """
    return loss.no_sync() if isinstance(loss, DistributedDataParallel) else nullcontext()


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"
