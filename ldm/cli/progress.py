"""The bar that long work shows."""

import sys
from types import TracebackType
from typing import Self


class StepBar:
    """A bar on stderr (stdout belongs to paths and JSON): steps done, iterations per second, time left.

    It appears with the first step, so that a request that is refused stays one line.
    """

    def __init__(self, total: int, hidden: bool) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            Task,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class Speed(ProgressColumn):
            """Denoising steps per second, as samplers are compared."""

            def render(self, task: Task) -> Text:
                speed = task.finished_speed or task.speed
                return Text("" if speed is None else f"{speed:.1f} it/s", style="progress.data.speed")

        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn()
        # Rich would send what is printed meanwhile to its own console: paths must reach the pipe that stdout may be.
        self._progress = Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty())
        self._task = self._progress.add_task("", total=total)
        self._hidden, self._started = hidden, False

    def __enter__(self) -> Self:
        return self

    def describe(self, text: str) -> None:
        """Say beside the bar what is being done."""
        self._progress.update(self._task, description=text)

    def advance(self, steps: int, total: int) -> None:
        """Steps are done of `total`, which only now is sure: some samplers add steps to the grid's."""
        if not self._started and not self._hidden:
            self._progress.start()
            self._started = True
        self._progress.update(self._task, advance=steps, total=total)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._started:
            self._progress.stop()
