"""How far a training is, read from its output folder. Needs no torch and disturbs no running training."""

import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

from omegaconf import OmegaConf

from ldm.training.checkpoints.checkpoint_folder import checkpoints, damaged_files
from ldm.training.reports.heartbeat import read_beat
from ldm.training.reports.logs import STATS, read_lines
from ldm.training.reports.plot import plot

_RECENT = 8  # lines of stats.jsonl that the speed is taken from


@dataclass(frozen=True)
class Status:
    """The state of a training.

    Attributes:
        samples_seen, samples: the clock, and where it ends.
        step, steps: the same in optimizer steps.
        losses: by the name of the loss, its values over time, as `stats.jsonl` has them.
        learning_rate: of the last line.
        samples_per_second, seconds_left: by the recent lines; `None` before the first one.
        wait_ms, wait_share: how long a step waits for its data, and which share of the time that is.
        checkpoint: the newest one; `None` if there is none.
        checkpoint_age: seconds since it was written.
        damaged: its files that do not match its manifest.
        skipped: steps that were not finite.
        silent: seconds since the last sign of life.
        state: running, stopped or finished; unknown for trainings of versions that gave no sign of life.
    """

    samples_seen: int
    samples: int
    step: int
    steps: int
    losses: dict[str, list[float]]
    learning_rate: float | None
    samples_per_second: float | None
    seconds_left: float | None
    wait_ms: float | None
    wait_share: float | None
    checkpoint: Path | None
    checkpoint_age: float | None
    damaged: list[str]
    skipped: int
    silent: float | None
    state: str = "unknown"


def read_status(run: Path) -> Status:
    """The status of the training in the output folder `run`.

    Raises:
        FileNotFoundError: `run` holds no training.
    """
    saved = checkpoints(run / "checkpoints")
    checkpoint = saved[-1] if saved else None
    configs = [path for path in (run / "config.yaml", *(p / "config.yaml" for p in reversed(saved))) if path.is_file()]
    if not configs:
        raise FileNotFoundError(f"{run} holds no training; name the output folder of one, e.g. runs/emoji/ldm")
    loop = OmegaConf.load(configs[0]).loop
    lines = read_lines(run / STATS)
    last: dict[str, Any] = next(
        (line for line in reversed(lines) if "learning_rate" in line), {}
    )  # others are of validation
    beat = read_beat(run)
    seen = max(int(last.get("samples", 0)), int(checkpoint.name) if checkpoint else 0)
    seen = beat.samples_seen if beat and beat.state == "running" else seen
    speeds = [line["samples_per_second"] for line in lines[-_RECENT:] if "samples_per_second" in line]
    speed = median(speeds) if speeds else beat.samples_per_second if beat else None
    names = sorted({key for line in lines for key in line if key.endswith("/loss")})
    return Status(
        samples_seen=seen,
        samples=loop.samples,
        step=seen // loop.batch_size,
        steps=-(-loop.samples // loop.batch_size),
        losses={name: [line[name] for line in lines if name in line] for name in names},
        learning_rate=last.get("learning_rate"),
        samples_per_second=speed,
        seconds_left=max(loop.samples - seen, 0) / speed if speed else None,
        wait_ms=last.get("data/wait_ms"),
        wait_share=last.get("data/wait_share"),
        checkpoint=checkpoint,
        checkpoint_age=time.time() - checkpoint.stat().st_mtime if checkpoint else None,
        damaged=damaged_files(checkpoint) if checkpoint else [],
        skipped=int(last.get("skipped", 0)),
        silent=time.time() - max(beat.time if beat else 0, last.get("time", 0)) if beat or "time" in last else None,
        state=beat.state if beat else "unknown",
    )


def describe(status: Status) -> str:
    """The status for a person: a line each, and a plot for each loss."""
    rows = [
        ("state", status.state),
        ("step", f"{status.step:,} of {status.steps:,}"),
        ("samples", f"{status.samples_seen:,} of {status.samples:,} ({status.samples_seen / status.samples:.1%})"),
        ("learning rate", "not logged yet" if status.learning_rate is None else f"{status.learning_rate:.3g}"),
        ("skipped steps", f"{status.skipped:,}" + (", see skipped.jsonl" if status.skipped else "")),
        ("checkpoint", _checkpoint(status)),
    ]
    if status.samples_per_second is not None and status.seconds_left is not None:
        rows.insert(3, ("speed", f"{status.samples_per_second:.1f} samples/s, {_time(status.seconds_left)} left"))
    if status.wait_ms is not None and status.wait_share is not None:
        rows.insert(4, ("data", f"a step waits {status.wait_ms:.3g} ms for it, {status.wait_share:.0%} of the time"))
    if status.silent is not None:
        rows.append(("sign of life", f"{_time(status.silent)} ago"))
    lines = [f"{name:14}{value}" for name, value in rows]
    for name, values in status.losses.items():
        lines += ["", f"{name}, now {values[-1]:.4g}", *plot(values)]
    return "\n".join(lines)


def _checkpoint(status: Status) -> str:
    if status.checkpoint is None or status.checkpoint_age is None:
        return "none yet"
    state = f"DAMAGED ({', '.join(status.damaged)})" if status.damaged else "verified"
    return f"{status.checkpoint}, {_time(status.checkpoint_age)} old, {state}"


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
