"""The loop of all commands that draw: one drawing after the other, because what is finished survives an interrupt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ldm.cli.errors import INTERRUPTED, PARTLY, describe, say
from ldm.cli.jobs import Line, check_settings, together
from ldm.cli.opener import Opened, Opener
from ldm.cli.report import Report
from ldm.generation.request import Request

if TYPE_CHECKING:
    from PIL.Image import Image

    from ldm.cli.journal import Journal
    from ldm.cli.output import Destination
    from ldm.cli.preview import Previews
    from ldm.cli.progress import StepBar
    from ldm.generation.drawing import Drawing
    from ldm.generation.recipe import Recipe
    from ldm.generation.result import Result
    from ldm.generation.task import Task

LARGEST_SHEET = 100
SEEDS = ("seed", "variation_seed")
"""What is random where it is left open."""


def draw_lines(
    lines: Sequence[Line],
    destination: "Destination",
    report: Report,
    journal: "Journal | None" = None,
    previews: "Previews | None" = None,
    devices: Sequence[str] = (),
) -> None:
    """Load the models, then draw, save and report.

    Of several pictures that are put in, those that cannot be used are said at the end, and the exit code is `PARTLY`.

    Args:
        lines: in order.
        destination: of the pictures.
        report: says what is finished.
        journal: of pictures that earlier runs finished, which are passed over.
        previews: shown and written on the way.
        devices: for a process each, see `Workers`; without any this process draws. No pictures are put in then.
    """
    for line in lines:
        check_settings(line)
    loop = _Loop(lines, destination, report, journal, previews)
    try:
        loop.run_on(devices) if devices else loop.run()
    except KeyboardInterrupt:
        say(f"interrupted: {loop.finished} of {loop.total} pictures are finished, in {destination.folder}")
        raise typer.Exit(INTERRUPTED) from None
    for message in loop.failed:
        say(message)
    if loop.failed:
        say(f"{len(loop.failed)} of {len(loop.sources)} pictures could not be used")
        raise typer.Exit(PARTLY)


@dataclass
class _Loop:
    """What goes on from drawing to drawing, see `draw_lines`.

    Attributes:
        finished: how many pictures are there, also when it breaks off.
        failed: what is wrong with pictures that were put in, a line each.
    """

    lines: Sequence[Line]
    destination: "Destination"
    report: Report
    journal: "Journal | None" = None
    previews: "Previews | None" = None
    finished: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def sources(self) -> set[Path]:
        """The pictures that are put in."""
        return {line.source for line in self.lines if line.source is not None}

    @property
    def total(self) -> int:
        """Pictures of all lines."""
        return sum(line.request.num_images_per_prompt for line in self.lines)

    def run(self) -> None:
        """Draw what is not finished."""
        from ldm.cli.progress import StepBar

        waiting, tasks = self._waiting(), _Tasks()
        if len(self.sources) < 2 and waiting:  # a picture that is none is said before the model is loaded
            tasks(waiting[0][0].line)
        opener, expected = Opener(self.report), 0
        with StepBar(0, hidden=self.report.hides_bars) as bar:
            while waiting:
                line, first = waiting[0][0].line, waiting[0][2]
                opened = opener(first)
                if not expected:
                    expected = sum(opened.steps_for(request) for _, _, request in waiting)
                try:
                    size = first.batch_size or opened.fitting_batch_size(first)
                    alike = [request for sheet, _, request in waiting if sheet.line.task is line.task]
                    request = together(alike, size)
                    now = waiting[: len(request.prompts)]
                    drawing = opened.steps(request, tasks(line))
                    expected = self._draw(drawing, opened, request, [(*each[:2],) for each in now], expected, bar)
                except (ValueError, OSError) as error:
                    described = describe(error)
                    # What is wrong with a picture that was put in says nothing of the next one.
                    if len(self.sources) < 2 or described is None or str(line.source) not in str(error):
                        raise
                    self.failed.append(described[0])
                    waiting = [each for each in waiting if each[0].line.source != line.source]
                else:
                    waiting = waiting[len(now) :]

    def run_on(self, devices: Sequence[str]) -> None:
        """Draw what is not finished in several processes, each of which has its share of what follows one another."""
        from ldm.cli.gpus import Failed, Steps, Workers, shared
        from ldm.cli.progress import StepBar

        shares = shared(self._waiting(), len(devices))
        self._begin([sheet.line for share in shares for sheet, number, _ in share if number == 0])
        requests = [[request for _, _, request in share] for share in shares]
        expected = [0] * len(shares)
        with (
            Workers(devices[: len(shares)], requests, self.report) as workers,
            StepBar(0, self.report.hides_bars) as bar,
        ):
            for process, message in workers.messages():
                if isinstance(message, Failed):
                    say(message.message)
                    raise typer.Exit(message.code)
                if isinstance(message, Steps):
                    expected[process] = message.expected
                    bar.describe(f"{self.finished}/{self.total} pictures")
                    bar.advance(message.done, sum(expected))
                    continue
                for index in range(len(message.images)):
                    sheet, number, _ = shares[process].pop(0)
                    self._keep(sheet, number, message, index, bar)

    def _waiting(self) -> "list[tuple[_Sheet, int, Request]]":
        """What no earlier run finished: a line's sheet, the number of a picture, its request."""
        sheets = [_Sheet(line, self._finished_before(line)) for line in self.lines]
        waiting = [
            (sheet, number, request)
            for sheet in sheets
            for number, request in enumerate(sheet.line.pictures())
            if number not in sheet.paths
        ]
        self.finished = self.total - len(waiting)
        if self.finished:
            where = self.destination.folder
            self.report.warn(
                f"{self.finished} of {self.total} pictures are finished in {where}; --again draws them anew"
            )
        return waiting

    def _draw(
        self,
        drawing: "Drawing",
        opened: Opened,
        request: Request,
        now: "Sequence[tuple[_Sheet, int]]",
        expected: int,
        bar: "StepBar",
    ) -> int:
        """Take a drawing to its end and keep its pictures. Returns how many steps are expected of all drawings."""
        bar.describe(f"picture {self.finished + 1}/{self.total}")
        self._begin([sheet.line for sheet, number in now if number == 0])
        self._caution(opened)
        own = opened.steps_for(request)
        for first, step in zip(chain([True], repeat(False)), drawing, strict=False):
            if first:  # some samplers and tasks take other steps than the request's
                expected += (step.total - own) * len(request.prompts)
            bar.advance(len(step.rows), expected)
            if self.previews is not None:
                self.previews.step(step, opened.model, request, self.destination, bar)
        for index, (sheet, number) in enumerate(now):
            self._keep(sheet, number, drawing.result, index, bar)
        return expected

    def _begin(self, lines: Sequence[Line]) -> None:
        """Note the seeds of lines before their first picture is drawn."""
        for line in lines:
            if self.journal is not None and line.key and not line.resumed:
                self.journal.begin(line.key, {name: getattr(line.request, name) for name in SEEDS})

    def _keep(self, sheet: "_Sheet", number: int, result: "Result", index: int, bar: "StepBar") -> None:
        """Save and report a finished picture, and the contact sheet that it completes."""
        line, image = sheet.line, result.images[index]
        source = "" if line.source is None else line.source.stem
        path = self.destination.save(image, result.recipes[index], source, adopt=line.resumed)
        if self.journal is not None and line.key:
            self.journal.finish(line.key, number, path)
        self.finished += 1
        if self.previews is not None:
            self.previews.finished(image, bar)
        self.report.picture(path, result, index, line.source)
        sheet.paths[number] = path
        if number < LARGEST_SHEET:
            sheet.images[number] = image
        if number == 0:
            sheet.recipe = result.recipes[index]
        if len(sheet.paths) == line.request.num_images_per_prompt > 1:
            images, recipe = sheet.whole()
            self.report.grid(self.destination.save_grid(images, recipe, source))
            if line.statistics:
                self._keep_statistics(images, recipe, source)
        if len(sheet.paths) == line.request.num_images_per_prompt:
            sheet.images.clear()

    def _keep_statistics(self, images: "list[Image]", recipe: "Recipe", source: str) -> None:
        """Save and report mean and deviation of the samples of one picture."""
        from ldm.tasks.reconstruct import mean_and_deviation

        for what, image in zip(("mean", "deviation"), mean_and_deviation(images), strict=True):
            self.report.statistic(what, self.destination.save_statistic(image, recipe, what, len(images), source))

    def _finished_before(self, line: Line) -> dict[int, Path]:
        """The files of its pictures that earlier runs finished, by number."""
        if self.journal is None or not line.key or not line.resumed:
            return {}
        there = (
            (number, self.journal.picture(line.key, number)) for number in range(line.request.num_images_per_prompt)
        )
        return {number: path for number, path in there if path is not None}

    def _caution(self, opened: Opened) -> None:
        """Say once what the model can hardly be expected to follow."""
        if self._cautious is opened:
            return
        from ldm.generation.cautions import cautions

        self._cautious = opened
        prompts = tuple(line.request.prompts[0] for line in self.lines)
        for line in cautions(opened.model, replace(self.lines[0].request, prompt=prompts)):
            self.report.warn(line)

    _cautious: Opened | None = None


@dataclass
class _Sheet:
    """The pictures of a line, for its contact sheet; those of earlier runs are read when it is whole."""

    line: Line
    paths: dict[int, Path]
    images: "dict[int, Image]" = field(default_factory=dict)
    recipe: "Recipe | None" = None

    def whole(self) -> "tuple[list[Image], Recipe]":
        """The pictures in order, and the recipe of the first."""
        from PIL import Image

        from ldm.generation.from_picture import recipe_in
        from ldm.generation.recipe import Recipe

        numbers = range(min(self.line.request.num_images_per_prompt, LARGEST_SHEET))
        images = [
            self.images[number] if number in self.images else Image.open(self.paths[number]) for number in numbers
        ]
        recipe = self.recipe or recipe_in(self.paths[0])
        assert isinstance(recipe, Recipe)
        return images, recipe


@dataclass
class _Tasks:
    """Makes the task of a line, once for lines that follow one another with the same."""

    _maker: "Callable[[], Task] | None" = None
    _task: "Task | None" = None

    def __call__(self, line: Line) -> "Task | None":
        if line.task is not self._maker:
            self._maker, self._task = None, None  # a picture less in memory
            self._task = None if line.task is None else line.task()
            self._maker = line.task
        return self._task
