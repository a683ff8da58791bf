"""Runs the training that a configuration describes."""

from pathlib import Path

import torch

from ldm.engine.memory import keep_freed_memory
from ldm.progress import Progress, silent
from ldm.training.checkpoints.checkpoint import load_checkpoint
from ldm.training.checkpoints.checkpoint_folder import checkpoints, choose, path_of
from ldm.training.distributed.processes import init_processes
from ldm.training.loop import Trainer
from ldm.training.stages.base import StageConfig


def export_checkpoint(
    run: StageConfig, folder: Path, samples: int | None, target: Path, progress: Progress = silent
) -> int:
    """Export the averaged weights of a checkpoint. Disturbs no running training of the same folder.

    Args:
        run: the settings of the training, whose data must be there still.
        folder: of the training.
        samples: of the checkpoint; None takes the newest intact one.
        target: folder of the model.
        progress: of opening data.

    Returns:
        The samples that the weights have seen.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is damaged.
    """
    saved = checkpoints(folder / "checkpoints")
    if not saved:
        raise FileNotFoundError(f"{folder} has no checkpoint yet; wait for loop.save_minutes={run.loop.save_minutes:g}")
    wanted = None if samples is None else path_of(folder / "checkpoints", samples)
    if wanted is not None and wanted not in saved:
        there = ", ".join(str(int(path.name)) for path in saved)
        raise FileNotFoundError(f"{folder} has no checkpoint of {samples:,} samples; there are {there}")
    path = choose(folder, str(wanted) if wanted else "auto")
    assert path is not None
    trainer = Trainer(run.build(init_processes(), progress), run)
    seen = load_checkpoint(path, trainer.trained_modules, run).samples_seen
    trainer.export(target, run.loop.export_half_life)
    return seen


def train(run: StageConfig, resume: str = "auto", keep_memory: bool = False, progress: Progress = silent) -> Trainer:
    """Train what `run` describes, to its end or an interrupt. Returns the trainer (`samples_seen`, `interrupted`).

    Args:
        run: the settings.
        resume: as for `Trainer.fit`.
        keep_memory: on a CPU, let this process hold what it frees until it ends: see `keep_freed_memory`.
        progress: of the work before and after the training itself, which draws its own bar.
    """
    torch.manual_seed(run.loop.seed)
    device = init_processes()
    stage = run.build(device, progress)
    if keep_memory and device.type == "cpu":
        keep_freed_memory()
    trainer = Trainer(stage, run)
    trainer.fit(resume)
    return trainer
