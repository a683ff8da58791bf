"""The bars that long work shows."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


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

    def above(self, stream: TextIO, text: str) -> None:
        """Write to a terminal, escapes and all, where the bar is, which goes on below."""
        if self._started:
            self._progress.live.transient = True
            self._progress.stop()
        stream.write(text)
        stream.flush()
        if self._started:
            self._progress.live.transient = False
            self._progress.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._started:
            self._progress.stop()


class Bars:
    """A bar for each piece of work that reports progress: call it as an `ldm.progress.Progress`.

    Bars appear with the first report and are done with the last, so that a training can draw its own in between.

    Args:
        stderr: draw there and not on stdout.
    """

    def __init__(self, stderr: bool = False) -> None:
        self._stderr = stderr
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show `done` of `total` in the bar named `what`."""
        if self._bars is None:
            from rich.console import Console
            from rich.progress import Progress

            self._bars = Progress(console=Console(stderr=self._stderr))
            self._bars.start()
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what)
        self._bars.update(self._tasks[what], completed=done, total=total)
        if done >= total:
            del self._tasks[what]
            if not self._tasks:
                self._stop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars, self._tasks = None, {}
