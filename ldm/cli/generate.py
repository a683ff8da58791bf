"""`ldm generate PROMPT...`: pictures from prompts."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ldm.cli.errors import INTERRUPTED, say
from ldm.cli.options import with_request_options
from ldm.generation.request import Request

if TYPE_CHECKING:
    from PIL.Image import Image

    from ldm.cli.output import Destination
    from ldm.generation.pipeline import LatentDiffusion
    from ldm.generation.recipe import Recipe
    from ldm.generation.result import Result

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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line and nothing else.")] = False,
) -> None:
    """Draw pictures from words."""
    from ldm.cli.output import Destination

    request = Request()
    if from_image is not None:
        from ldm.generation.from_picture import request_from

        request, unused = request_from(from_image)
        for line in unused:
            say(line)
    request = request.changed(given)
    _check_prompts(request)
    request.check(options=True)
    total = len(request.prompts) * request.num_images_per_prompt
    _draw(request, Destination(output, several=total > 1), as_json)


def _check_prompts(request: Request) -> None:
    for prompt in request.prompts:
        if not prompt.strip():
            raise ValueError('PROMPT is missing or empty; say what to draw, e.g. ldm generate "a red apple, 3d style"')


def _draw(request: Request, destination: "Destination", as_json: bool) -> None:
    """Load the model, then draw, save and report.

    One drawing after the other, because what is finished survives an interrupt.
    """
    total, finished = len(request.prompts) * request.num_images_per_prompt, 0
    try:
        from ldm.cli.progress import StepBar
        from ldm.generation.cautions import cautions
        from ldm.generation.regional_prompt import RegionalPrompt
        from ldm.generation.resolve import draw_seed, fitting_batch_size

        regions = []
        for mask, prompt in request.regions.items():
            try:
                regions.append(RegionalPrompt.from_file(mask, str(prompt)))
            except (OSError, ValueError) as error:
                raise type(error)(f"--region {error}") from None
        model = _load(request, request.model, request.load_options)
        weak = _load(request, request.weak_model, {}) if request.weak_model else None
        for file, weight in request.loras.items():
            say(str(model.load_lora(file, weight)))
        for file, word in request.embeddings.items():
            model.load_embedding(file, word)
        steps = request.num_inference_steps or model.parts.defaults.num_inference_steps
        first_seed = draw_seed() if request.seed is None else request.seed
        images: list[Image] = []
        recipes: list[Recipe] = []
        with StepBar(total * steps, hidden=as_json) as bar:
            for some in _drawings(request, first_seed, request.batch_size or fitting_batch_size(model, request)):
                bar.describe(f"picture {finished + 1}/{total}")
                drawing = model.steps(some, regions=regions, weak_model=weak)
                for line in [] if finished else cautions(model, request):
                    say(line)
                for step in drawing:
                    bar.advance(len(step.rows), step.total * total)
                for number, image in enumerate(drawing.result.images):
                    path = destination.save(image, drawing.result.recipes[number])
                    finished += 1
                    _report(path, drawing.result, number, as_json)
                    images += [image] if len(images) < LARGEST_GRID else []
                    recipes += [drawing.result.recipes[number]] if not recipes else []
                    if finished % request.num_images_per_prompt == 0:
                        _save_grid(images, destination, recipes.pop(), as_json)
                        images = []
    except KeyboardInterrupt:
        say(f"interrupted: {finished} of {total} pictures are finished, in {destination.folder}")
        raise typer.Exit(INTERRUPTED) from None


def _drawings(request: Request, first_seed: int, size: int) -> Iterator[Request]:
    """Requests of at most `size` pictures each."""
    prompts = [prompt for prompt in request.prompts for _ in range(request.num_images_per_prompt)]
    for start in range(0, len(prompts), size):
        some = tuple(prompts[start : start + size])
        yield replace(request, prompt=some, num_images_per_prompt=1, seed=first_seed + start)


def _save_grid(images: "list[Image]", destination: "Destination", recipe: "Recipe", as_json: bool) -> None:
    """A contact sheet of the pictures of one prompt, if there are several. recipe: of the first."""
    if len(images) > 1:
        grid = destination.save_grid(images, recipe)
        print(json.dumps({"grid": str(grid)}, ensure_ascii=False) if as_json else f"{grid}", flush=True)


def _load(request: Request, name: str, load_options: dict[str, Any]) -> "LatentDiffusion":
    from ldm.generation.pipeline import LatentDiffusion

    dtype, device, attention = request.dtype, request.device, request.attention
    if Path(name).is_file():
        return LatentDiffusion.from_single_file(name, dtype, device, attention=attention, **load_options)
    if load_options:
        option = next(iter(load_options)).removesuffix("_type").replace("_", "-")
        raise ValueError(f"--{option} is for single files; {name} says itself what it is")
    return LatentDiffusion.from_pretrained(name, dtype, device, attention=attention)


def _report(path: Path, result: "Result", number: int, as_json: bool) -> None:
    """Report the finished picture, and whether its prompt fills more than a chunk of the text encoder."""
    seed, prompt, tokens = result.seeds[number], result.prompts[number], result.tokens[number]
    seconds = result.seconds / len(result.seeds)
    if tokens.chunks > 1:
        say(f"{tokens.total} tokens, read in {tokens.chunks} chunks, fill the prompt {prompt[:40]}...")
    if as_json:
        line = {"picture": str(path), "seed": seed, "seconds": round(seconds, 3), "prompt": prompt}
        line |= {"tokens_used": tokens.used, "tokens_total": tokens.total, "chunks": tokens.chunks}
        print(json.dumps(line, ensure_ascii=False), flush=True)
    else:
        print(f"{path}  seed {seed}  {seconds:.1f} s", flush=True)
