"""A progress bar for work that is counted in bytes."""

from types import TracebackType
from typing import Self


class ByteBar:
    """A bar on stderr: bytes done, speed, time left. It vanishes when the work is done."""

    def __init__(self, text: str, total: int) -> None:
        """Make the bar.

        Args:
            text: what is being done.
            total: in bytes.
        """
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
        self._progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(text, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def advance(self, size: int) -> None:
        """So many bytes more are done."""
        self._progress.advance(self._task, size)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
