"""Pictures drawn, saved and reported one drawing after the other, so that what is finished survives an interrupt."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ldm.cli.opener import Opened, Opener, regions_of
from ldm.cli.report import Report
from ldm.generation.first_noise import later
from ldm.generation.request import Request

if TYPE_CHECKING:
    from PIL.Image import Image

    from ldm.cli.journal import Journal
    from ldm.cli.output import Destination
    from ldm.cli.preview import Previews
    from ldm.cli.progress import StepBar
    from ldm.generation.recipe import Recipe
    from ldm.generation.result import Result

LARGEST_SHEET = 100
SEEDS = ("seed", "variation_seed")
"""What is random where it is left open."""


@dataclass(frozen=True)
class Line:
    """One prompt and what it gives: as many pictures as its request counts, and a contact sheet of them.

    Attributes:
        request: with one prompt and seeds.
        where: it stands, for messages; empty is the command line.
        key: in the journal; empty is not to be kept there.
        resumed: an earlier run began it.
    """

    request: Request
    where: str = ""
    key: str = ""
    resumed: bool = False

    def pictures(self) -> list[Request]:
        """The requests of its pictures, one each."""
        one = replace(self.request, num_images_per_prompt=1)
        return [later(one, number) for number in range(self.request.num_images_per_prompt)]


def check_request(line: Line) -> None:
    """Refuse what no model could draw, light to do; says where it stands."""
    with _named(line):
        if not line.request.prompts[0].strip():
            raise ValueError('PROMPT is missing or empty; say what to draw, e.g. ldm generate "a red apple, 3d style"')
        line.request.check(options=True)


def check_settings(line: Line) -> None:
    """Refuse names, options and files that nothing could follow, before the seconds that loading a model takes."""
    from ldm.generation import resolve

    with _named(line):
        resolve.check_settings(line.request)
        regions_of(line.request)
        if line.request.latents is not None:
            from ldm.io.noise_file import NoiseFile

            NoiseFile.parse(line.request.latents).check(line.request.num_images_per_prompt)


@contextmanager
def _named(line: Line) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        if not line.where:
            raise
        raise ValueError(f"{line.where}: {error}") from None


@dataclass
class DrawingLoop:
    """Draws lines.

    Attributes:
        lines: in order.
        destination: of the pictures.
        report: says what is finished.
        journal: of pictures that earlier runs finished, which are passed over.
        previews: shown and written on the way.
        finished: how many pictures are there, also when it breaks off.
    """

    lines: Sequence[Line]
    destination: "Destination"
    report: Report
    journal: "Journal | None" = None
    previews: "Previews | None" = None
    finished: int = 0

    @property
    def total(self) -> int:
        """Pictures of all lines."""
        return sum(line.request.num_images_per_prompt for line in self.lines)

    def run(self) -> None:
        """Draw what is not finished."""
        from ldm.cli.progress import StepBar

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
        opener, expected = Opener(self.report), 0
        with StepBar(0, hidden=self.report.hides_bars) as bar:
            while waiting:
                opened = opener(waiting[0][2])
                own = opened.model.parts.defaults.num_inference_steps
                if not expected:
                    expected = sum(request.num_inference_steps or own for _, _, request in waiting)
                size = waiting[0][2].batch_size or opened.fitting_batch_size(waiting[0][2])
                request = together([request for _, _, request in waiting], size)
                bar.describe(f"picture {self.finished + 1}/{self.total}")
                now, waiting = waiting[: len(request.prompts)], waiting[len(request.prompts) :]
                drawing = opened.steps(request)
                self._begin([sheet.line for sheet, number, _ in now if number == 0])
                self._caution(opened)
                for step in drawing:
                    if step.index == 0:
                        expected += (step.total - (request.num_inference_steps or own)) * len(step.rows)
                    bar.advance(len(step.rows), expected)
                    if self.previews is not None:
                        self.previews.step(step, opened.model, request, self.destination, bar)
                for index, (sheet, number, _) in enumerate(now):
                    self._keep(sheet, number, drawing.result, index, bar)

    def _begin(self, lines: Sequence[Line]) -> None:
        """Note the seeds of lines before their first picture is drawn."""
        for line in lines:
            if self.journal is not None and line.key and not line.resumed:
                self.journal.begin(line.key, {name: getattr(line.request, name) for name in SEEDS})

    def _keep(self, sheet: "_Sheet", number: int, result: "Result", index: int, bar: "StepBar") -> None:
        """Save and report a finished picture, and the contact sheet that it completes."""
        line, image = sheet.line, result.images[index]
        path = self.destination.save(image, result.recipes[index], adopt=line.resumed)
        if self.journal is not None and line.key:
            self.journal.finish(line.key, number, path)
        self.finished += 1
        if self.previews is not None:
            self.previews.finished(image, bar)
        self.report.picture(path, result, index)
        sheet.paths[number] = path
        if number < LARGEST_SHEET:
            sheet.images[number] = image
        if number == 0:
            sheet.recipe = result.recipes[index]
        if len(sheet.paths) == line.request.num_images_per_prompt > 1:
            self.report.grid(self.destination.save_grid(*sheet.whole()))
        if len(sheet.paths) == line.request.num_images_per_prompt:
            sheet.images.clear()

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


def together(requests: Sequence[Request], most: int) -> Request:
    """The first requests of one picture each that can be drawn as one: seeds count up, and prompts alone differ."""
    first, prompts = requests[0], [requests[0].prompts[0]]
    for number, request in enumerate(requests[1:most], start=1):
        if replace(later(first, number), prompt=request.prompt) != request:
            break
        prompts.append(request.prompts[0])
    return replace(first, prompt=tuple(prompts))
