"""Whether the disk can hold what a training will write, checked before the first step."""

from collections.abc import Iterable
from pathlib import Path

from torch import nn

from ldm.io.disk.files import free_space, size_in_words
from ldm.training.checkpoints.checkpoint_folder import checkpoints
from ldm.training.config import LoopConfig
from ldm.training.optimization.moments import moment_bytes
from ldm.training.optimization.trained_module import TrainedModule, frozen_names


def require_disk_space(
    output: Path, trained_modules: Iterable[TrainedModule], config: LoopConfig, samples_seen: int
) -> None:
    """Check the free space for the checkpoints that are still to come and for the export.

    One more than `keep` is counted, because the old ones go only when the new one is whole.

    Raises:
        OSError: too little is free; says how much is needed, for what, and what to change.
    """
    modules = [trained_module.module for trained_module in trained_modules]
    one = sum(checkpoint_bytes(module, config) for module in modules)
    exported = sum(export_bytes(module, config) for module in modules)
    to_come = -(-(config.samples - samples_seen) // config.batch_size)
    passing = min(config.keep + 1 - len(checkpoints(output / "checkpoints")), to_come)
    staying = to_come * config.batch_size // config.keep_every if config.keep_every else 0
    number = max(passing, 1) + staying
    free = free_space(output)
    if (needed := number * one + exported) > free:
        raise OSError(
            f"output={output}: {number:,} checkpoints of {size_in_words(one)} and the export need"
            f" {size_in_words(needed)}, but {size_in_words(free)} are free; free some space, lower loop.keep or raise"
            " loop.keep_every"
        )


def checkpoint_bytes(module: nn.Module, config: LoopConfig) -> int:
    """The most that a checkpoint holds of one module: what is trained of it, averages, moments.

    Its tensors may be on meta.
    """
    frozen = frozen_names(module)
    weights = sum(tensor.numel() for name, tensor in module.state_dict().items() if name not in frozen)
    return 4 * weights * (1 + len(config.half_lives)) + moment_bytes(module, config.optimizer)


def export_bytes(module: nn.Module, config: LoopConfig) -> int:
    """The most that the exports hold of one trained module."""
    return 4 * sum(tensor.numel() for tensor in module.state_dict().values()) * (1 + config.export_raw)
