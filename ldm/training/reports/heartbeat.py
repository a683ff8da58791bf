"""A sign of life of a training: how far it is and how fast, some seconds old at most. Reading it needs no torch."""

import json
import logging
import time
from collections import deque
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from ldm.io.disk.files import write_file

FILE = "heartbeat.json"
_EVERY = 5.0  # seconds between two writings
_STEPS = 10  # before a speed is a speed
_RECENT = 100  # steps that it is taken from
_STALE = 60.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beat:
    """One sign of life.

    Attributes:
        samples_seen, samples: the clock, and where it ends.
        time: of writing, seconds since 1970.
        samples_per_second: of the recent steps; None before the first ten.
        state: running, stopped (by Ctrl-C, SIGTERM or an error) or finished.
    """

    samples_seen: int
    samples: int
    time: float
    samples_per_second: float | None
    state: str = "running"

    @property
    def seconds_left(self) -> float | None:
        """At this speed."""
        if not self.samples_per_second:
            return None
        return max(self.samples - self.samples_seen, 0) / self.samples_per_second


class Heartbeat:
    """Writes signs of life of a running training into its folder.

    Args:
        folder: of the training.
        samples: where its clock ends.
        samples_seen: where it begins.
    """

    def __init__(self, folder: Path, samples: int, samples_seen: int) -> None:
        self._file, self._samples = folder / FILE, samples
        self._recent: deque[tuple[float, int]] = deque([(time.monotonic(), samples_seen)], maxlen=_RECENT + 1)
        self._written = float("-inf")
        self._write("running")

    def beat(self, samples_seen: int) -> str:
        """Take in a finished step. Returns the time left for a person, once there have been ten."""
        self._recent.append((time.monotonic(), samples_seen))
        if time.monotonic() - self._written >= _EVERY:
            self._write("running")
        left = self._now("running").seconds_left
        return "" if left is None else f"{timedelta(seconds=round(left))} left"

    def stop(self, orderly: bool) -> None:
        """Write down that the training has ended. orderly: no error ended it."""
        self._write("finished" if orderly and self._recent[-1][1] >= self._samples else "stopped")

    def _now(self, state: str) -> Beat:
        (begun, first), (ended, last) = self._recent[0], self._recent[-1]
        enough = len(self._recent) > _STEPS and ended > begun
        return Beat(last, self._samples, time.time(), (last - first) / (ended - begun) if enough else None, state)

    def _write(self, state: str) -> None:
        self._written = time.monotonic()
        try:
            write_file(self._file, json.dumps(asdict(self._now(state))).encode())
        except OSError as error:  # a full disk is no reason not to go on
            _log.debug("%s could not be written: %s", self._file, error.strerror)


def read_beat(run: Path) -> Beat | None:
    """The last sign of life of a training: `stopped` where it was killed, None where it never gave one."""
    try:
        content = json.loads((run / FILE).read_bytes())
        beat = Beat(**content)
        stale = beat.state == "running" and time.time() - beat.time > _STALE
    except (OSError, ValueError, TypeError):
        return None
    return Beat(**{**content, "state": "stopped"}) if stale else beat
