"""`ldm generate PROMPT...`: pictures from words."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from PIL.Image import Image

    from ldm.cli.output import Destination
    from ldm.cli.progress import StepBar
    from ldm.io.metadata import Recipe
    from ldm.pipeline import LatentDiffusion, Result

DEFAULT_MODEL = "emoji"
LARGEST_GRID = 100


@dataclass(frozen=True)
class Request:
    """What one call of `ldm generate` asks for; None leaves the choice to the model."""

    prompts: list[str]
    n: int
    seed: int | None
    steps: int | None
    cfg_scale: float | None
    cfg_rescale: float | None
    negative_prompt: str
    sampler: str | None
    schedule: str | None
    width: int | None
    height: int | None
    upscale: bool
    model: str
    device: str | None
    dtype: str | None


def generate(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw.", show_default=False)
    ] = None,
    n: Annotated[int, typer.Option("--n", "-n", help="Pictures per prompt; more than one also gives a grid.")] = 1,
    seed: Annotated[
        int | None, typer.Option(help="Of the first picture; the next has the next seed. [default: drawn by lot]")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. [default: the model's]")] = None,
    cfg_scale: Annotated[
        float | None, typer.Option(help="How strongly the prompt guides; 1 is not at all. [default: the model's]")
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to stay away from.")] = None,
    sampler: Annotated[
        str | None, typer.Option(help="ddim, ddpm, euler, heun, dpmpp_2m. [default: the model's]")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="leading, trailing, linspace, karras. [default: the model's]")
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Of the finished picture, in pixels. [default: the model's]")
    ] = None,
    height: Annotated[
        int | None, typer.Option(help="Of the finished picture, in pixels. [default: the model's]")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="A folder, or a .png file. [default: outputs]")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help=f"A shipped name, a folder, or a hub id. [default: {DEFAULT_MODEL}]")
    ] = None,
    from_image: Annotated[
        Path | None, typer.Option(help="Repeat the picture in this PNG; other options given change its recipe.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line and nothing else.")] = False,
    no_upscale: Annotated[bool, typer.Option("--no-upscale", help="Leave out the model's upscaler.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. [default: the best there is]")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. [default: by device]")] = None,
) -> None:
    """Draw pictures from words."""
    from ldm.cli.output import Destination

    repeated = _recipe_of(from_image)
    upscale = not no_upscale and (repeated is None or repeated.upscale)
    # A size is that of the finished picture: it means something else without the upscaler.
    size_of = repeated if repeated and repeated.upscale == upscale else None
    request = Request(
        prompts=prompts or ([repeated.prompt] if repeated else []),
        n=n,
        seed=seed if seed is not None or repeated is None else repeated.seed,
        steps=steps if steps is not None or repeated is None else repeated.num_inference_steps,
        cfg_scale=cfg_scale if cfg_scale is not None or repeated is None else repeated.guidance_scale,
        cfg_rescale=repeated.guidance_rescale if repeated else None,
        negative_prompt=negative_prompt
        if negative_prompt is not None
        else repeated.negative_prompt
        if repeated
        else "",
        sampler=sampler or (repeated.sampler if repeated else None),
        schedule=schedule or (repeated.schedule if repeated else None),
        width=width if width is not None or size_of is None else size_of.width,
        height=height if height is not None or size_of is None else size_of.height,
        upscale=upscale,
        model=model or (repeated.model if repeated else DEFAULT_MODEL),
        device=device or (repeated.device if repeated else None),
        dtype=dtype or (repeated.dtype if repeated else None),
    )
    _check(request)
    destination = Destination(output, several=len(request.prompts) * n > 1)
    _draw(request, destination, as_json)


def _recipe_of(path: Path | None) -> "Recipe | None":
    if path is None:
        return None
    from ldm.io.metadata import read_recipe

    return read_recipe(path)


def _check(request: Request) -> None:
    """Refuse, before the seconds that loading a model takes, what no model could draw."""
    if not request.prompts:
        raise ValueError('PROMPT is missing; say what to draw, e.g. ldm generate "a red apple, 3d style"')
    for prompt in request.prompts:
        if not prompt.strip():
            raise ValueError('PROMPT is empty; say what to draw, e.g. ldm generate "a red apple, 3d style"')
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise ValueError("PROMPT is not valid UTF-8; check the terminal's encoding")
    if request.n < 1:
        raise ValueError(f"--n {request.n} pictures cannot be drawn; use 1 or more")
    for name, value in (("--steps", request.steps), ("--width", request.width), ("--height", request.height)):
        if value is not None and value < 1:
            raise ValueError(f"{name} {value} is not possible; use 1 or more")


def _draw(request: Request, destination: "Destination", as_json: bool) -> None:
    """Load the model, then draw, save and tell of one picture after the other.

    One at a time, because what is finished survives an interrupt, and because a picture drawn alone rounds exactly as
    it will when `--from-image` repeats it alone.
    """
    total, finished = len(request.prompts) * request.n, 0
    try:
        from ldm.cli.progress import StepBar
        from ldm.pipeline import LatentDiffusion
        from ldm.plan import draw_seed

        model = LatentDiffusion.from_pretrained(request.model, dtype=request.dtype, device=request.device)
        steps = request.steps or model.parts.defaults.num_inference_steps
        first_seed = draw_seed() if request.seed is None else request.seed
        with StepBar(total * steps, hidden=as_json) as bar:
            for prompt in request.prompts:
                tokens = _tokens(model, prompt)
                images: list[Image] = []
                for seed in range(first_seed + finished, first_seed + finished + request.n):
                    bar.describe(f"picture {finished + 1}/{total}")
                    result = _one(model, request, prompt, seed, bar)
                    path = destination.save(result.images[0], result.recipes[0])
                    finished += 1
                    _tell(path, result, tokens, as_json)
                    images += result.images if len(images) < LARGEST_GRID else []
                if request.n > 1:
                    grid = destination.save_grid(images, prompt, first_seed + finished - request.n)
                    print(json.dumps({"grid": str(grid)}, ensure_ascii=False) if as_json else f"{grid}", flush=True)
    except KeyboardInterrupt:
        _warn(f"interrupted: {finished} of {total} pictures are finished, in {destination.folder}")
        raise typer.Exit(130) from None


def _tokens(model: "LatentDiffusion", prompt: str) -> dict[str, int]:
    report = model.token_report(prompt)
    if report.cut:
        _warn(f"only {report.used} of {report.total} tokens were used of the prompt {prompt[:40]}...")
    return {"tokens_used": report.used, "tokens_total": report.total}


def _one(model: "LatentDiffusion", request: Request, prompt: str, seed: int, bar: "StepBar") -> "Result":
    return model(
        prompt,
        negative_prompt=request.negative_prompt,
        num_inference_steps=request.steps,
        guidance_scale=request.cfg_scale,
        guidance_rescale=request.cfg_rescale,
        width=request.width,
        height=request.height,
        seed=seed,
        sampler=request.sampler,
        schedule=request.schedule,
        upscale=request.upscale,
        callback=lambda step: bar.advance(),
    )


def _tell(path: Path, result: "Result", tokens: dict[str, int], as_json: bool) -> None:
    seed, seconds = result.seeds[0], result.seconds
    if as_json:
        line = {"picture": str(path), "seed": seed, "seconds": round(seconds, 3), "prompt": result.prompts[0], **tokens}
        print(json.dumps(line, ensure_ascii=False), flush=True)
    else:
        print(f"{path}  seed {seed}  {seconds:.1f} s", flush=True)


def _warn(message: str) -> None:
    print(f"ldm: {' '.join(message.split())}", file=sys.stderr, flush=True)
