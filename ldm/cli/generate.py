"""`ldm generate PROMPT...`: pictures from words."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ldm.generation.request import DEFAULT_MODEL, Request, named_values, request_from, weighted_files
from ldm.generation.sampler_names import SAMPLER_LABELS, SCHEDULE_LABELS

if TYPE_CHECKING:
    from PIL.Image import Image

    from ldm.cli.output import Destination
    from ldm.cli.progress import StepBar
    from ldm.generation.pipeline import LatentDiffusion
    from ldm.generation.prompt_timeline import RegionalPrompt
    from ldm.generation.result import Result

LARGEST_GRID = 100
_SAMPLERS = [name for name in SAMPLER_LABELS if name != "ddim_inversion"]


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
        str | None, typer.Option(help=f"{', '.join(_SAMPLERS)}; or another tool's name for it. [default: the model's]")
    ] = None,
    schedule: Annotated[str | None, typer.Option(help=f"{', '.join(SCHEDULE_LABELS)}. [default: the model's]")] = None,
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
        Path | None,
        typer.Option(
            help="Repeat the picture in this PNG, also A1111's, ComfyUI's, InvokeAI's; other options change it."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line and nothing else.")] = False,
    no_upscale: Annotated[bool, typer.Option("--no-upscale", help="Leave out the model's upscaler.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. [default: the best there is]")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. [default: by device]")] = None,
    lora: Annotated[list[str] | None, typer.Option(help="FILE or FILE=WEIGHT; may be repeated.")] = None,
    embedding: Annotated[list[Path] | None, typer.Option(help="Textual inversion FILE; may be repeated.")] = None,
    region: Annotated[
        list[str] | None, typer.Option(help="MASK.png=PROMPT, which holds where the mask is white; may be repeated.")
    ] = None,
    clip_skip: Annotated[
        int | None, typer.Option(help="Layers of the text encoder to leave out (A1111's Clip skip 2 is 1).")
    ] = None,
    prompt_syntax: Annotated[
        str | None, typer.Option(help="a1111, comfy or plain: docs/prompts.md. [default: a1111]")
    ] = None,
    wildcards: Annotated[Path | None, typer.Option(help="Folder whose NAME.txt fills __NAME__ in prompts.")] = None,
    guidance: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, e.g. pag_scale=3: docs/guidance.md; may be repeated.")
    ] = None,
    sampler_option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, e.g. eta=0.5; may be repeated.")] = None,
    schedule_option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, e.g. rho=5; may be repeated.")] = None,
    prediction: Annotated[
        str | None, typer.Option(help="epsilon or v_prediction, where a single file does not say it, or says it wrong.")
    ] = None,
    family: Annotated[
        str | None, typer.Option(help="Of a single file: sd1, sd2, sdxl, ..., where it is taken for something else.")
    ] = None,
    ema: Annotated[
        bool, typer.Option("--ema", help="Of a single file with two sets of weights take the average.")
    ] = False,
    weak_model: Annotated[
        str | None, typer.Option(help="The worse model of --guidance autoguidance_scale=2; named as --model is.")
    ] = None,
) -> None:
    """Draw pictures from words."""
    from ldm.cli.output import Destination

    base, unused = (Request(), []) if from_image is None else request_from(from_image)
    for line in unused:
        _warn(line)
    request = base.changed(
        {
            "prompts": prompts,
            "n": n,
            "model": model,
            "negative_prompt": negative_prompt,
            "seed": seed,
            "num_inference_steps": steps,
            "guidance_scale": cfg_scale,
            "sampler": sampler,
            "schedule": schedule,
            "width": width,
            "height": height,
            "upscale": False if no_upscale else None,
            "device": device,
            "dtype": dtype,
            "clip_skip": clip_skip,
            "prompt_syntax": prompt_syntax,
            "wildcards": wildcards,
            "guidance_options": {**base.guidance_options, **named_values("--guidance", guidance or [])},
            "sampler_options": {**base.sampler_options, **named_values("--sampler-option", sampler_option or [])},
            "schedule_options": {**base.schedule_options, **named_values("--schedule-option", schedule_option or [])},
            "weak_model": weak_model,
            "load_options": {
                **base.load_options,
                **({"prediction_type": prediction} if prediction else {}),
                **({"family": family} if family else {}),
                **({"ema": True} if ema else {}),
            },
            "loras": weighted_files("--lora", lora or []),
            "embeddings": {str(path): path.stem for path in embedding or []},
            "regions": named_values("--region", region or []),
        }
    )
    request.check()
    _draw(request, Destination(output, several=len(request.prompts) * request.n > 1), as_json)


def _draw(request: Request, destination: "Destination", as_json: bool) -> None:
    """Load the model, then draw, save and tell of one picture after the other.

    One at a time, because what is finished survives an interrupt, and because a picture drawn alone rounds exactly as
    it will when `--from-image` repeats it alone.
    """
    total, finished = len(request.prompts) * request.n, 0
    try:
        from ldm.cli.progress import StepBar
        from ldm.generation.prompt_timeline import RegionalPrompt
        from ldm.generation.resolve import draw_seed

        regions = [RegionalPrompt.from_file(path, str(prompt)) for path, prompt in request.regions.items()]
        model = _load(request, request.model, request.load_options)
        weak = _load(request, request.weak_model, {}) if request.weak_model else None
        for file, weight in request.loras.items():
            _warn(str(model.load_lora(file, weight)))
        for file, word in request.embeddings.items():
            model.load_embedding(file, word)
        steps = request.num_inference_steps or model.parts.defaults.num_inference_steps
        first_seed = draw_seed() if request.seed is None else request.seed
        with StepBar(total * steps, hidden=as_json) as bar:
            for prompt in request.prompts:
                tokens = _tokens(model, prompt, request.prompt_syntax)
                images: list[Image] = []
                for seed in range(first_seed + finished, first_seed + finished + request.n):
                    bar.describe(f"picture {finished + 1}/{total}")
                    result = _one(model, request, prompt, seed, bar, regions, weak)
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


def _load(request: Request, name: str, load_options: Mapping[str, Any]) -> "LatentDiffusion":
    from ldm.generation.pipeline import LatentDiffusion

    if Path(name).is_file():
        return LatentDiffusion.from_single_file(
            name,
            dtype=request.dtype,
            device=request.device,
            prediction_type=load_options.get("prediction_type"),
            zero_terminal_snr=load_options.get("zero_terminal_snr"),
            family=load_options.get("family"),
            ema=load_options.get("ema", False),
        )
    if load_options:
        raise ValueError(
            f"--{next(iter(load_options)).removesuffix('_type')} is for single files; {name} says itself what it is"
        )
    return LatentDiffusion.from_pretrained(name, dtype=request.dtype, device=request.device)


def _one(
    model: "LatentDiffusion",
    request: Request,
    prompt: str,
    seed: int,
    bar: "StepBar",
    regions: "list[RegionalPrompt]",
    weak: "LatentDiffusion | None",
) -> "Result":
    from ldm.generation.conditions import ExtraConditioning

    return model(
        prompt,
        negative_prompt=request.negative_prompt,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        guidance_rescale=request.guidance_rescale,
        width=request.width,
        height=request.height,
        seed=seed,
        sampler=request.sampler,
        schedule=request.schedule,
        upscale=request.upscale,
        callback=lambda step: bar.advance(step.total * len(request.prompts) * request.n),
        clip_skip=request.clip_skip,
        prompt_syntax=request.prompt_syntax,
        wildcards=request.wildcards,
        regions=regions,
        guidance_options=request.guidance_options,
        sampler_options=request.sampler_options,
        schedule_options=request.schedule_options,
        weak_model=weak,
        conditions=ExtraConditioning.from_recipe(request.conditions),
    )


def _tokens(model: "LatentDiffusion", prompt: str, syntax: str) -> dict[str, int]:
    report = model.token_report(prompt, syntax)
    if report.chunks > 1:
        _warn(f"{report.total} tokens, read in {report.chunks} chunks, fill the prompt {prompt[:40]}...")
    return {"tokens_used": report.used, "tokens_total": report.total, "chunks": report.chunks}


def _tell(path: Path, result: "Result", tokens: dict[str, int], as_json: bool) -> None:
    seed, seconds = result.seeds[0], result.seconds
    if as_json:
        line = {"picture": str(path), "seed": seed, "seconds": round(seconds, 3), "prompt": result.prompts[0], **tokens}
        print(json.dumps(line, ensure_ascii=False), flush=True)
    else:
        print(f"{path}  seed {seed}  {seconds:.1f} s", flush=True)


def _warn(message: str) -> None:
    print(f"ldm: {' '.join(message.split())}", file=sys.stderr, flush=True)
