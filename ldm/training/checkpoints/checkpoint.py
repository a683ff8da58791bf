"""Checkpoints: whole or absent, verified, and free of pickle.

A checkpoint is written beside its final place, synced, listed in a manifest with the sha256 of every file, and renamed;
older ones are deleted only afterwards.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ldm.io.disk.files import write_folder
from ldm.training.checkpoints.checkpoint_folder import (
    STATE,
    damaged_files,
    mark_latest,
    path_of,
    prune,
    read_state,
    set_aside,
    write_manifest,
)
from ldm.training.checkpoints.module_files import module_files, read_module, write_tensors
from ldm.training.config import LoopConfig, to_yaml
from ldm.training.optimization.trained_module import TrainedModule
from ldm.training.stages.base import Run

_CONFIG = "config.yaml"


@dataclass
class TrainingProgress:
    """Where a training is.

    Attributes:
        samples_seen: the clock.
        skipped: steps that were not finite and left the weights as they were.
        skipped_in_a_row: those since the last good step.
        loss_scale: state of accelerate's gradient scaler (fp16 only).
    """

    samples_seen: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    loss_scale: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    folder: Path,
    trained_modules: dict[str, TrainedModule],
    progress: TrainingProgress,
    run: Run,
    is_main: bool = True,
) -> None:
    """Write `folder/<samples seen>`, name it in `latest`, and drop what `keep` and `keep_every` do not hold.

    A whole checkpoint of this clock that is there already is the same one and stays, a damaged one is set aside. All
    processes call this and the main one writes. Sharded tensors are put together before, so that a write that fails
    leaves nobody waiting.
    """
    files: dict[str, dict[str, Tensor]] = {}
    for name, trained_module in trained_modules.items():
        files |= module_files(name, trained_module, is_main)
    if not is_main:
        return
    target = path_of(folder, progress.samples_seen)
    present = os.path.lexists(target)
    if present and damaged_files(target):
        set_aside(target)
        present = False
    if not present:
        with write_folder(target) as temporary:
            for file, tensors in files.items():
                write_tensors(temporary / file, tensors)
            state = {**asdict(progress), "optimizer": run.loop.optimizer, "stays": must_stay(progress, run.loop)}
            (temporary / STATE).write_text(json.dumps(state) + "\n")
            (temporary / _CONFIG).write_text(to_yaml(run))
            write_manifest(temporary)
    mark_latest(folder, target)
    prune(folder, run.loop.keep)


def must_stay(progress: TrainingProgress, config: LoopConfig) -> bool:
    """Whether the last step crossed a multiple of `keep_every`."""
    every, seen = config.keep_every, progress.samples_seen
    return every > 0 and seen // every > (seen - config.batch_size) // every


def load_checkpoint(path: Path, trained_modules: dict[str, TrainedModule], run: Run) -> TrainingProgress:
    """Fill `trained_modules` from an intact checkpoint in place and return where its training was.

    Raises:
        ValueError: it belongs to another network or optimizer; names what differs between the two configurations.
    """
    state = read_state(path)
    if (used := state["optimizer"]) != (optimizer := run.loop.optimizer):
        raise ValueError(f"checkpoint {path} was trained with loop.optimizer={used}, not {optimizer}; use that")
    for name, trained_module in trained_modules.items():
        if not (path / f"{name}.safetensors").is_file():
            held = ", ".join(sorted(file.stem for file in path.glob("*_ema.safetensors"))).replace("_ema", "")
            raise ValueError(f"checkpoint {path} does not fit: it holds {held}, but this config trains {name}")
        try:
            read_module(path, name, trained_module)
        except ValueError as error:
            settings = _differing_settings((path / _CONFIG).read_text(), to_yaml(run))
            raise ValueError(f"checkpoint {path} does not fit {name}: {error}; {settings}") from error
    known = TrainingProgress.__dataclass_fields__
    return TrainingProgress(**{key: value for key, value in state.items() if key in known})


def _differing_settings(there: str, here: str) -> str:
    """What a person should set back, from the resolved YAML of the checkpoint and of the present run."""
    theirs, ours = (_flat(OmegaConf.create(text)) for text in (there, here))
    changed = [key for key in theirs if key in ours and theirs[key] != ours[key] and not key.startswith("loop.")]
    if not changed:
        return "use its own config.yaml or another output"
    named = ", ".join(f"{key}={theirs[key]} (not {ours[key]})" for key in changed[:3])
    return f"it was trained with {named}; use that or another output"


def _flat(config: Any, prefix: str = "") -> dict[str, str]:
    """Settings by dotted name."""
    found: dict[str, str] = {}
    for key, value in config.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, DictConfig) else {f"{prefix}{key}": str(value)}
    return found
