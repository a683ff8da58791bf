"""Training what a run describes."""

import torch

from ldm.training.distributed.processes import init_processes
from ldm.training.loop import Trainer
from ldm.training.stages.base import StageConfig


def train(run: StageConfig, resume: str = "auto") -> Trainer:
    """Train what `run` describes, to its end or an interrupt. Returns the trainer (`samples_seen`, `interrupted`).

    Args:
        run: the settings.
        resume: as for `Trainer.fit`.
    """
    torch.manual_seed(run.loop.seed)
    trainer = Trainer(run.build(init_processes()), run)
    trainer.fit(resume)
    return trainer
