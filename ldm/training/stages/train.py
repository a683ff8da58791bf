"""Runs the training that a configuration describes."""

import torch

from ldm.engine.memory import keep_freed_memory
from ldm.progress import Progress, silent
from ldm.training.distributed.processes import init_processes
from ldm.training.loop import Trainer
from ldm.training.stages.base import StageConfig


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
