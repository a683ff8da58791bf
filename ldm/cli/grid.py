"""`ldm grid PROMPT --x steps=10,20`: one picture of many, over any options."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ldm.cli.axes import Axis, cells, parse_axis
from ldm.cli.errors import INTERRUPTED, say
from ldm.cli.inputs import ENDINGS
from ldm.cli.journal import request_key
from ldm.cli.opener import LOADING, Opener
from ldm.cli.options import JsonOption, QuietOption, with_request_options
from ldm.cli.preview import PreviewOption, Previews, ShowOption
from ldm.cli.quick_import import import_quickly
from ldm.cli.report import Report
from ldm.generation.request import Request

if TYPE_CHECKING:
    from ldm.cli.progress import StepBar

_FOLDER = Path("outputs") / "grids"
_MOST_CELLS = 10_000
_NO_AXIS = Axis("", ("",), ({},))


@dataclass(frozen=True)
class Grid:
    """What is drawn, and where it goes.

    Attributes:
        axes: x, y and z.
        request: that they change, with its seeds.
        requests: of the cells, x fastest.
        files: of the cells, one each; cells that are alike share one.
        sheet: the file with all of them.
    """

    axes: tuple[Axis, Axis, Axis]
    request: Request
    requests: tuple[Request, ...]
    files: tuple[Path, ...]
    sheet: Path

    @property
    def missing(self) -> list[tuple[Request, Path]]:
        """Cells that are not there yet; those that need the same model follow one another."""
        there = {file: request for request, file in zip(self.requests, self.files, strict=True) if not file.is_file()}
        kinds = {_loading(request): None for request in there.values()}
        places = {kind: place for place, kind in enumerate(kinds)}
        pairs = [(request, file) for file, request in there.items()]
        return sorted(pairs, key=lambda pair: places[_loading(pair[0])])

    def write_content(self) -> None:
        """Write the JSON beside the sheet: what each cell was drawn with, and the seeds to go on with."""
        from ldm.io.disk.files import write_json

        x, y, _ = (len(axis.texts) for axis in self.axes)
        rows = [
            {
                **{name: axis.texts[number // step % len(axis.texts)] for name, axis, step in self._steps(x, y)},
                "file": str(file.relative_to(self.sheet.parent)),
                "request": request.values(),
            }
            for number, (request, file) in enumerate(zip(self.requests, self.files, strict=True))
        ]
        axes = {n: {"option": a.name, "values": list(a.texts)} for n, a, _ in self._steps(x, y)}
        seeds = {"seed": self.request.seed, "variation_seed": self.request.variation_seed}
        content = {"grid": self.sheet.name, **seeds, "axes": axes, "cells": rows}
        write_json(self.sheet.with_suffix(".json"), content)

    def _steps(self, x: int, y: int) -> list[tuple[str, Axis, int]]:
        """Name, axis, and how many cells one value of it lasts, of the axes that there are."""
        named = zip("xyz", self.axes, (1, x, x * y), strict=True)
        return [(name, axis, step) for name, axis, step in named if axis is not _NO_AXIS]


@with_request_options
def grid(
    given: dict[str, Any],
    x: Annotated[
        str | None, typer.Option("--x", help="OPTION=VALUES to the right: steps=10,20 cfg=1:7:4 S/R=apple,pear")
    ] = None,
    y: Annotated[str | None, typer.Option("--y", help="Likewise, downwards: sampler=ddim,dpmpp_2m")] = None,
    z: Annotated[str | None, typer.Option("--z", help="Likewise, a block each: seed=1-3")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder, which keeps the cells, too.", show_default=False)
    ] = _FOLDER,
    preview: PreviewOption = None,
    show: ShowOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw a picture for every value of one, two or three options, and all of them on a sheet.

    Cells that are finished are not drawn again: after an end, or with more values, run it again.
    """
    report, request = Report(as_json, quiet), Request().changed(given)
    plan = _plan(request, (("--x", x), ("--y", y), ("--z", z)), output)
    with Previews.of(preview, show, report) as previews:
        try:
            _draw(plan, report, previews)
        except KeyboardInterrupt:
            done = len(plan.files) - len(plan.missing)
            say(f"interrupted: {done} of {len(plan.files)} pictures are finished; the same command goes on")
            raise typer.Exit(INTERRUPTED) from None


def _plan(request: Request, options: Sequence[tuple[str, str | None]], folder: Path) -> Grid:
    """Read the axes, and find the seed with which the same grid was begun before."""
    if not isinstance(request.prompt, str) or not request.prompt.strip():
        raise ValueError("a grid needs one PROMPT; give others with --y 'prompt=...' or --y 'S/R=...'")
    if request.num_images_per_prompt != 1:
        raise ValueError(f"--n {request.num_images_per_prompt}: a cell holds one picture; write --z seed=1-4")
    if not folder.is_dir() and (folder.exists() or folder.suffix.lower() in ENDINGS):
        raise ValueError(f"--output {folder} is a file; name a folder")
    request.check(options=True)
    if options[0][1] is None:
        raise ValueError("a grid needs an option and its values; write --x steps=10,20,30")
    axes = [_NO_AXIS if text is None else parse_axis(option, text, request) for option, text in options]
    count = len(axes[0].texts) * len(axes[1].texts) * len(axes[2].texts)
    if count > _MOST_CELLS:
        raise ValueError(f"a grid of {count:,} cells is too large; use at most {_MOST_CELLS:,}")
    from ldm.cli.output import slug
    from ldm.generation.first_noise import with_seeds

    key = request_key(request, *(f"{axis.name}={axis.texts}" for axis in axes))
    sheet = folder / f"{slug(request.prompt)}-{key}.png"
    seeded = _begun(sheet.with_suffix(".json"), request)
    if seeded is None:
        varies = any("variation_strength" in change for axis in axes for change in axis.changes)
        strength = request.variation_strength
        seeded = replace(
            with_seeds(replace(request, variation_strength=1.0 if varies else strength)), variation_strength=strength
        )
    requests = tuple(cells(seeded, axes))
    files = tuple(folder / "cells" / f"{request_key(each)}.png" for each in requests)
    plan = Grid((axes[0], axes[1], axes[2]), seeded, requests, files, sheet)
    _check(plan)
    return plan


def _begun(file: Path, request: Request) -> Request | None:
    """The request with the seeds that a grid was begun with; None if it was not."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        seeded = replace(request, seed=content["seed"], variation_seed=content["variation_seed"])
        seeded.check()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return seeded


def _check(plan: Grid) -> None:
    """Refuse before the model is loaded what some cell could not be drawn with."""
    import_quickly("ldm.cli.drawing")
    from ldm.cli.jobs import Line, check_request, check_settings

    seen = set()
    for request in plan.requests:
        # Prompts, seeds and numbers of steps are right or wrong for all cells alike.
        key = request_key(replace(request, prompt="x", seed=0, num_inference_steps=None, guidance_scale=None))
        if key not in seen:
            seen.add(key)
            check_request(Line(request))
            check_settings(Line(request))


def _draw(plan: Grid, report: Report, previews: "Previews") -> None:
    from ldm.cli.grid_sheet import grid_sheet
    from ldm.cli.progress import StepBar
    from ldm.generation.cautions import cautions
    from ldm.io.disk.files import write_file
    from ldm.io.metadata.png import png_bytes

    missing, opener = plan.missing, Opener(report)
    began, steps, done = 0.0, 0, 0
    with StepBar(0, hidden=report.hides_bars) as bar:
        for number, (request, file) in enumerate(missing):
            opened = opener(request)
            if not number:
                steps = sum(opened.steps_for(each) for each, _ in missing)
                plan.write_content()
                report.cost(len(plan.files), len(missing), steps)
                for line in cautions(opened.model, request):
                    report.warn(line)
                began = perf_counter()
            bar.describe(f"cell {number + 1}/{len(missing)}")
            image = _cell(opened, request, file, previews, bar, steps)
            done += opened.steps_for(request)
            report.cell(file)
            if number == 0 and len(missing) > 1:
                report.left((perf_counter() - began) * (steps - done) / done)
            previews.finished(image, bar)
        plan.write_content()
        sheet = grid_sheet(plan.files, [axis.labels for axis in plan.axes])
        write_file(plan.sheet, png_bytes(sheet))
        previews.finished(sheet, bar)
    report.grid(plan.sheet)


def _cell(opened: Any, request: Request, file: Path, previews: "Previews", bar: "StepBar", steps: int) -> Any:
    """Draw a cell and keep it. Returns its picture."""
    from ldm.cli.output import Destination
    from ldm.io.disk.files import write_file
    from ldm.io.metadata.png import png_bytes

    place, drawing = Destination(str(file), several=False), opened.steps(request)
    for step in drawing:
        bar.advance(1, steps)
        previews.step(step, opened.model, replace(request, prompt=(request.prompts[0],)), place, bar)
    recipe = drawing.result.recipes[0]
    write_file(file, png_bytes(drawing.result.images[0], recipe.parameters(), recipe.to_json()))
    return drawing.result.images[0]


def _loading(request: Request) -> str:
    return json.dumps([getattr(request, name) for name in LOADING], default=str)
