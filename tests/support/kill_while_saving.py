"""Kills a training with SIGKILL at random moments while it saves, and checks what is left each time.

`python tests/support/kill_while_saving.py FOLDER [KILLS]` (50 by default). A forked process saves checkpoint after
checkpoint, as fast as it can, and is killed after a random time; then the folder must hold a checkpoint whose files
match its manifest, whose weights are those of its clock, and from which the next process goes on. At last nothing but
the newest checkpoints may be left.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from regression import LineRun
from safetensors.torch import load_file

from ldm.training.checkpoints.checkpoint import TrainingProgress, save_checkpoint
from ldm.training.checkpoints.checkpoint_folder import MANIFEST, checkpoints, choose, damaged_files, read_state, tidy
from ldm.training.config import LoopConfig
from ldm.training.optimization.trained_module import TrainedModule

_CONFIG = LoopConfig(batch_size=1, keep=2, keep_every=500, precision="fp32")
_RUN = LineRun(loop=_CONFIG)


def _save_forever(output: Path) -> None:
    """Go on from the newest checkpoint; the weights of a checkpoint are its clock."""
    module = TrainedModule.build("net", torch.nn.Linear(64, 64), _CONFIG)
    start = choose(output, "auto")
    tidy(output / "checkpoints", start)
    progress = TrainingProgress(int(start.name) if start else 0)
    while True:
        progress.samples_seen += 1
        with torch.no_grad():
            for parameter in module.module.parameters():
                parameter.fill_(float(progress.samples_seen))
        save_checkpoint(output / "checkpoints", {"net": module}, progress, _RUN)


def _check(output: Path, before: int) -> int:
    """The clock of the newest checkpoint, after checking all that a kill left."""
    newest = choose(output, "auto")
    assert newest is not None, "nothing is left"
    clock = int(newest.name)
    assert clock >= before, f"went back from {before} to {clock}"
    assert newest == checkpoints(output / "checkpoints")[-1], "the newest one is damaged"
    for path in checkpoints(output / "checkpoints"):
        assert not damaged_files(path), path
        for value in load_file(path / "net.safetensors").values():
            assert (value == int(path.name)).all(), path
    return clock


def kill_while_saving(output: Path, kills: int, seed: int = 0) -> list[int]:
    """Save and kill so many times. Returns the clock of the newest checkpoint after each kill.

    Raises:
        AssertionError: a kill left no verified checkpoint, or a worse one than the kill before it.
    """
    random.seed(seed)
    clocks = [0]
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            try:
                _save_forever(output)
            finally:
                os._exit(1)
        while not checkpoints(output / "checkpoints"):
            time.sleep(0.001)
        time.sleep(random.uniform(0.0, 0.15))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "the saving process ended by itself"
        clocks.append(_check(output, clocks[-1]))
    tidy(output / "checkpoints", choose(output, "auto"))
    passing = [path for path in checkpoints(output / "checkpoints") if not read_state(path)["stays"]]
    # A kill between writing and pruning leaves one more than `keep`.
    assert len(passing) <= _CONFIG.keep + 1, passing
    left = {path.name for path in (output / "checkpoints").iterdir() if not (path / MANIFEST).is_file()}
    assert left <= {"latest"}, left
    return clocks[1:]


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = kill_while_saving(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 50)
    print(f"{len(found)} kills, each left a verified checkpoint; {found[-1]} checkpoints were written")
