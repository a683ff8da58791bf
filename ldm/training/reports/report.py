"""Reports of a running training: progress bar, stats.jsonl, trackers, preview pictures."""

import io
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from ldm.io.disk.files import write_file
from ldm.training.checkpoints.lock import FolderLostError
from ldm.training.config import LoopConfig
from ldm.training.reports.heartbeat import Heartbeat
from ldm.training.reports.logs import SKIPPED, STATS, drop_lines_beyond
from ldm.training.reports.preview_sheet import page, picture_grid, sheet
from ldm.training.reports.trackers import Trackers

_RETRY = 60.0  # seconds after a checkpoint that could not be written
_log = logging.getLogger(__name__)


class Report:
    """Collects scalars and writes their means every `log_every` samples. Silent on all but the main process.

    Use as a context manager. On resume, lines of `stats.jsonl` and `skipped.jsonl` from beyond the checkpoint are
    dropped, because those samples are seen again. What cannot be written (a full disk) is a warning, not the end of
    the training.
    """

    def __init__(
        self,
        folder: Path,
        config: LoopConfig,
        is_main: bool,
        trackers: Trackers,
        samples_seen: int,
        skipped: int = 0,
    ) -> None:
        self._trackers = trackers
        self._folder, self._config, self._is_main = folder, config, is_main
        self._last = {"log": samples_seen, "preview": samples_seen, "save": samples_seen}
        self._saved_at = self._logged_at = time.monotonic()
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._start = samples_seen
        self._skipped = skipped
        self._retry_at = float("inf")

    def __enter__(self) -> "Report":
        # 80 columns: the rate and the losses stand in a line of their own, where a log file has them too.
        self._progress = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} samples"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            disable=not self._is_main,
        )
        self._task = self._progress.add_task("", total=self._config.samples, completed=self._start, left="")
        if self._is_main:
            self._folder.mkdir(parents=True, exist_ok=True)
            for name in (STATS, SKIPPED):
                drop_lines_beyond(self._folder / name, self._start)
            self._trackers.start(self._start)
        self._progress.start()
        self.heart = Heartbeat(self._folder, self._config.samples, self._start) if self._is_main else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self.heart is not None and not isinstance(error, FolderLostError):
            self.heart.stop(error is None)
        if self._is_main and not isinstance(error, FolderLostError):  # trackers would write what is pending
            self._trackers.close()

    def log(self, samples_seen: int, scalars: dict[str, Tensor]) -> None:
        """Take in the scalars of one step; write their means when it is time."""
        if not self._is_main:
            return
        if self.heart is not None:
            left = self.heart.beat(samples_seen)
            self._progress.update(self._task, completed=samples_seen, left=left)
        for key, value in scalars.items():
            self._sums[key] = self._sums.get(key, 0) + value.detach()
            self._counts[key] = self._counts.get(key, 0) + 1
        if self._is_due("log", samples_seen, self._config.log_every):
            self._write(samples_seen)

    def validation(self, samples_seen: int, losses: dict[str, float]) -> None:
        """Write down the losses of held-out samples."""
        if self._is_main:
            self._append(STATS, {"samples": samples_seen, "time": round(time.time(), 1), **losses})
            self._trackers.log(losses, samples_seen)

    def preview_is_due(self, samples_seen: int) -> bool:
        """Whether `preview_every` samples have passed since the last preview."""
        return self._is_due("preview", samples_seen, self._config.preview_every)

    def save_is_due(self, samples_seen: int) -> bool:
        """Whether `save_every` samples or `save_minutes` minutes have passed since the last checkpoint."""
        now = time.monotonic()
        late = 0 < self._config.save_minutes * 60 <= now - self._saved_at
        if self._is_due("save", samples_seen, self._config.save_every) or late or now >= self._retry_at:
            self._saved_at, self._retry_at = now, float("inf")
            return True
        return False

    def save_failed(self, error: OSError) -> None:
        """Say that a checkpoint could not be written, and let it be due again in a minute."""
        _log.warning("%s; the training goes on and tries again in a minute", error)
        self._retry_at = time.monotonic() + _RETRY

    def skip(self, samples_seen: int, faults: dict[str, str], sample_ids: list[int]) -> None:
        """Write down a step that was not finite: its clock, what was wrong, and which samples it was made of."""
        self._skipped += 1
        if self._is_main:
            reason = ", ".join(f"{name} {value}" for name, value in faults.items())
            _log.warning("step to %s samples skipped: %s; its samples are in %s", samples_seen, reason, SKIPPED)
            line = {"samples": samples_seen, "time": round(time.time(), 1), **faults, "sample_ids": sample_ids}
            self._append(SKIPPED, line)

    def pictures(self, samples_seen: int, previews: dict[str, Tensor], captions: Sequence[str] = ()) -> None:
        """Write preview pictures (N, 3, H, W) in [0, 1] as one sheet each, and the page of all sheets.

        Args:
            samples_seen: the clock.
            previews: by name; `real` are the pictures that the captions belong to, and stand beside the others.
            captions: one per picture, or none.
        """
        folder = self._folder / "previews"
        for name, tiles in previews.items():
            if name == "real" and len(previews) > 1:
                continue
            self._trackers.picture(name, picture_grid(tiles), samples_seen)
            png = io.BytesIO()
            sheet(tiles, captions, previews.get("real")).save(png, format="PNG")
            self._write_preview(folder / f"{name}-{samples_seen:09d}.png", png.getvalue())
        self._write_preview(folder / "index.html", page(folder).encode())

    def _write_preview(self, path: Path, content: bytes) -> None:
        try:
            write_file(path, content)
        except OSError as error:
            _log.warning("preview %s could not be written: %s", path, error.strerror)

    def _is_due(self, what: str, samples_seen: int, every: int) -> bool:
        due = every > 0 and samples_seen // every > self._last[what] // every
        if due:
            self._last[what] = samples_seen
        return due

    def _write(self, samples_seen: int) -> None:
        means = {key: float(total) / self._counts[key] for key, total in self._sums.items()}
        now = time.monotonic()
        step_samples, seconds = samples_seen - self._start, max(now - self._logged_at, 1e-9)
        means["samples_per_second"] = step_samples / seconds
        means["data/wait_share"] = float(self._sums.get("data/wait_ms", 0)) / 1000 / seconds
        self._start, self._logged_at = samples_seen, now
        self._sums.clear()
        self._counts.clear()
        counts = {"samples": samples_seen, "time": round(time.time(), 1), "skipped": self._skipped}
        self._append(STATS, counts | means)
        self._trackers.log(means, samples_seen)
        losses = "  ".join(f"{key} {value:.4g}" for key, value in means.items() if key.endswith("/loss"))
        rate = f"{means['samples_per_second']:.1f}/s  {losses}  data {means['data/wait_share']:.0%}"
        self._progress.console.print(f"{samples_seen:,}/{self._config.samples:,} samples  {rate}", soft_wrap=True)

    def _append(self, name: str, line: dict[str, Any]) -> None:
        try:
            with (self._folder / name).open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            _log.warning("%s could not be written: %s", self._folder / name, error.strerror)
