"""`ldm generate PROMPT...`: pictures from prompts."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ldm.cli.errors import INTERRUPTED, say
from ldm.cli.options import with_request_options
from ldm.cli.report import Report
from ldm.generation.request import Request

if TYPE_CHECKING:
    from PIL.Image import Image

    from ldm.cli.output import Destination
    from ldm.generation.recipe import Recipe
    from ldm.pipeline.pipeline import LatentDiffusion

LARGEST_GRID = 100


@with_request_options
def generate(
    given: dict[str, Any],
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="A folder, or a .png file. [default: outputs]")
    ] = None,
    from_image: Annotated[
        Path | None,
        typer.Option(
            help="Repeat this picture, also A1111's, ComfyUI's, InvokeAI's or NovelAI's; other options change it."
        ),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A file with a prompt on each line; PROMPT - reads them from stdin.")
    ] = None,
    same_seed: Annotated[
        bool, typer.Option("--same-seed", help="Draw every prompt with the same seed, to compare prompts.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Draw pictures from words."""
    from ldm.cli.output import Destination

    report, request = Report(as_json, quiet), Request()
    if from_image is not None:
        from ldm.generation.from_picture import request_from

        request, unused = request_from(from_image)
        for line in unused:
            report.warn(line)
    request = request.changed(_with_lines(given, prompts))
    _check_prompts(request)
    request.check(options=True)
    total = len(request.prompts) * request.num_images_per_prompt
    _draw(request, Destination(output, several=total > 1), report, same_seed)


def _with_lines(given: dict[str, Any], prompts: Path | None) -> dict[str, Any]:
    """What was given, with the prompts of stdin in the place of `-`, and then those of a file."""
    own = given.get("prompt", ())
    texts: list[str] = []
    for text in [own] if isinstance(own, str) else own:
        texts += _lines(sys.stdin.read()) if text == "-" else [text]
    if prompts is not None:
        try:
            texts += _lines(prompts.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise ValueError(f"--prompts {prompts} is not valid UTF-8; save it as UTF-8") from None
    if not texts:
        return given
    return {**given, "prompt": texts[0] if len(texts) == 1 else tuple(texts)}


def _lines(text: str) -> list[str]:
    """Its lines without the empty ones; where there are none, one empty prompt, which is refused as such."""
    return [line.strip() for line in text.splitlines() if line.strip()] or [""]


def _check_prompts(request: Request) -> None:
    for prompt in request.prompts:
        if not prompt.strip():
            raise ValueError('PROMPT is missing or empty; say what to draw, e.g. ldm generate "a red apple, 3d style"')


def _draw(request: Request, destination: "Destination", report: Report, same_seed: bool) -> None:
    """Load the model, then draw, save and report.

    One drawing after the other, because what is finished survives an interrupt.
    """
    total, finished = len(request.prompts) * request.num_images_per_prompt, 0
    report.loading(request.model)
    try:
        from ldm.cli.progress import StepBar
        from ldm.generation.cautions import cautions
        from ldm.generation.first_noise import draw_seed
        from ldm.generation.regional_prompt import RegionalPrompt
        from ldm.generation.resolve import check_settings, fitting_batch_size

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
        steps = request.num_inference_steps or model.parts.defaults.num_inference_steps
        first_seed = draw_seed() if request.seed is None else request.seed
        images: list[Image] = []
        recipes: list[Recipe] = []
        with StepBar(total * steps, hidden=report.hides_bars) as bar:
            size = request.batch_size or fitting_batch_size(model, request)
            for some in _drawings(request, first_seed, size, same_seed):
                bar.describe(f"picture {finished + 1}/{total}")
                drawing = model.steps(some, regions=regions, weak_model=weak)
                for line in [] if finished else cautions(model, request):
                    report.warn(line)
                for step in drawing:
                    bar.advance(len(step.rows), step.total * total)
                for number, image in enumerate(drawing.result.images):
                    path = destination.save(image, drawing.result.recipes[number])
                    finished += 1
                    report.picture(path, drawing.result, number)
                    images += [image] if len(images) < LARGEST_GRID else []
                    recipes += [drawing.result.recipes[number]] if not recipes else []
                    if finished % request.num_images_per_prompt == 0:
                        first = recipes.pop()
                        if len(images) > 1:
                            report.grid(destination.save_grid(images, first))
                        images = []
    except KeyboardInterrupt:
        say(f"interrupted: {finished} of {total} pictures are finished, in {destination.folder}")
        raise typer.Exit(INTERRUPTED) from None


def _drawings(request: Request, first_seed: int, size: int, same_seed: bool) -> Iterator[Request]:
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


def _load(request: Request, name: str, vae: str | None, load_options: dict[str, Any]) -> "LatentDiffusion":
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
