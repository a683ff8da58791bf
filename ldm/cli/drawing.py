"""The loop of all commands that draw: open the models, then draw, save and report one drawing after the other."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ldm.cli.errors import INTERRUPTED, PARTLY, describe, say

if TYPE_CHECKING:
    from PIL.Image import Image

    from ldm.cli.output import Destination
    from ldm.cli.progress import StepBar
    from ldm.cli.report import Report
    from ldm.generation.recipe import Recipe
    from ldm.generation.regional_prompt import RegionalPrompt
    from ldm.generation.request import Request
    from ldm.generation.task import Task
    from ldm.pipeline.pipeline import LatentDiffusion

LARGEST_GRID = 100


@dataclass(frozen=True)
class Job:
    """What is drawn with one request.

    Attributes:
        request: of all its pictures.
        task: makes what is done with a picture that is put in; None is what the request says.
        source: the file that is put in.
    """

    request: "Request"
    task: "Callable[[], Task] | None" = None
    source: Path | None = None

    @classmethod
    def of(cls, request: "Request") -> "Job":
        """A request with the task that it describes."""
        from ldm.tasks.table import task_from

        return cls(request, partial(task_from, request.task) if request.task else None)

    @property
    def count(self) -> int:
        """Of its pictures."""
        return len(self.request.prompts) * self.request.num_images_per_prompt


@dataclass(frozen=True)
class Opened:
    """The models and masks that a request names."""

    model: "LatentDiffusion"
    weak: "LatentDiffusion | None"
    regions: "Sequence[RegionalPrompt]"

    @classmethod
    def of(cls, request: "Request", report: "Report") -> "Opened":
        """Open them, after what no model could follow was refused."""
        report.loading(request.model)
        from ldm.generation.regional_prompt import RegionalPrompt
        from ldm.generation.resolve import check_settings

        check_settings(request)
        regions = []
        for mask, prompt in request.regions.items():
            try:
                regions.append(RegionalPrompt.from_file(mask, str(prompt)))
            except (OSError, ValueError) as error:
                raise type(error)(f"--region {error}") from None
        model = _load(request, request.model, request.vae, request.load_options)
        weak = _load(request, request.weak_model, None, {}) if request.weak_model else None
        for file, weight in request.loras.items():
            report.warn(str(model.load_lora(file, weight, allow_unmatched=request.allow_unmatched)))
        for file, word in request.embeddings.items():
            model.load_embedding(file, word)
        return cls(model, weak, regions)


def draw_all(jobs: "Sequence[Job]", destination: "Destination", report: "Report", same_seed: bool = False) -> None:
    """Load the models of the first job, then draw, save and report them all.

    One drawing after the other, because what is finished survives an interrupt. Of several jobs, those that fail are
    said at the end, and the exit code is `PARTLY`.
    """
    total = sum(job.count for job in jobs)
    loop = _Loop(destination, report, same_seed, total)
    failed = []
    try:
        from ldm.cli.progress import StepBar

        if len(jobs) == 1 and jobs[0].task is not None:  # a picture that is none is said before the model is loaded
            task = jobs[0].task()
            jobs = [replace(jobs[0], task=lambda: task)]
        opened = Opened.of(jobs[0].request, report)
        steps = jobs[0].request.num_inference_steps or opened.model.parts.defaults.num_inference_steps
        with StepBar(total * steps, hidden=report.hides_bars) as bar:
            for job in jobs:
                try:
                    loop.draw(job, opened, bar)
                except (ValueError, OSError) as error:
                    described = describe(error)
                    if len(jobs) == 1 or described is None or not _is_about(error, job):
                        raise
                    failed.append(described[0])
    except KeyboardInterrupt:
        say(f"interrupted: {loop.finished} of {total} pictures are finished, in {destination.folder}")
        raise typer.Exit(INTERRUPTED) from None
    for message in failed:
        say(message)
    if failed:
        say(f"{len(failed)} of {len(jobs)} pictures could not be used")
        raise typer.Exit(PARTLY)


def _is_about(error: Exception, job: Job) -> bool:
    """Whether an error is about a job's own picture, so that the next one may do."""
    return job.source is not None and str(job.source) in str(error)


@dataclass
class _Loop:
    """What goes on from job to job: the number of finished pictures."""

    destination: "Destination"
    report: "Report"
    same_seed: bool
    total: int
    finished: int = 0
    cautioned: bool = False

    def draw(self, job: Job, opened: Opened, bar: "StepBar") -> None:
        from ldm.generation.cautions import cautions
        from ldm.generation.resolve import draw_seed, fitting_batch_size

        request, model = job.request, opened.model
        task = None if job.task is None else job.task()
        first_seed = draw_seed() if request.seed is None else request.seed
        size = request.batch_size or fitting_batch_size(model, request)
        images: list[Image] = []
        recipes: list[Recipe] = []
        name = "" if job.source is None else job.source.stem
        done = 0
        for some in _drawings(request, first_seed, size, self.same_seed):
            bar.describe(f"picture {self.finished + 1}/{self.total}")
            drawing = model.steps(some, regions=opened.regions, weak_model=opened.weak, task=task)
            for line in [] if self.cautioned else cautions(model, request):
                self.report.warn(line)
            self.cautioned = True
            for step in drawing:
                bar.advance(len(step.rows), step.total * self.total)
            for number, image in enumerate(drawing.result.images):
                path = self.destination.save(image, drawing.result.recipes[number], name)
                self.finished, done = self.finished + 1, done + 1
                self.report.picture(path, drawing.result, number, job.source)
                images += [image] if len(images) < LARGEST_GRID else []
                recipes += [drawing.result.recipes[number]] if not recipes else []
                if done % request.num_images_per_prompt == 0:
                    first = recipes.pop()
                    if len(images) > 1:
                        self.report.grid(self.destination.save_grid(images, first, name))
                    images = []


def _drawings(request: "Request", first_seed: int, size: int, same_seed: bool) -> "Iterator[Request]":
    """Requests of at most `size` pictures each; with `same_seed` the seeds begin anew for every prompt."""
    times = request.num_images_per_prompt
    groups = [[prompt] * times for prompt in request.prompts]
    if not same_seed:
        groups = [[prompt for group in groups for prompt in group]]
    for prompts in groups:
        for start in range(0, len(prompts), size):
            some = tuple(prompts[start : start + size])
            yield replace(request, prompt=some, num_images_per_prompt=1, seed=first_seed + start)


def _export_newest(run: Path) -> None:
    """Make a model of a training that has none yet: of the averages of its newest checkpoint."""
    if (run / "checkpoints").is_dir() and (run / "config.yaml").is_file() and not (run / "export").is_dir():
        from ldm.training.stages.config_file import load_run
        from ldm.training.stages.train import export_checkpoint

        seen = export_checkpoint(load_run(run / "config.yaml"), run, None, run / "export")
        say(f"{run} had no model yet; {run / 'export'} is of its averaged weights after {seen:,} samples")


def _load(request: "Request", name: str, vae: str | None, load_options: dict[str, Any]) -> "LatentDiffusion":
    from ldm.io.library import known_path
    from ldm.io.locate import shipped_models
    from ldm.pipeline.pipeline import LatentDiffusion

    dtype, device, attention = request.dtype, request.device, request.attention
    name = name if name in shipped_models() else known_path("models", name)
    _export_newest(Path(name))
    if Path(name).is_file():
        return LatentDiffusion.from_single_file(name, dtype, device, attention=attention, vae=vae, **load_options)
    if load_options:
        option = next(iter(load_options)).removesuffix("_type").replace("_", "-")
        raise ValueError(f"--{option} is for single files; {name} says itself what it is")
    return LatentDiffusion.from_pretrained(name, dtype, device, attention=attention, vae=vae)
