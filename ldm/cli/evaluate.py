"""`ldm eval MODEL`: scores of a model's pictures, beside those of the real pictures of a data set."""

import json
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="A shipped name, a folder, or a hub id.")] = "emoji",
    data: Annotated[
        str, typer.Option(help="The data set of `ldm data build`, or any folder of pictures with captions.")
    ] = "runs/data/emoji",
    n: Annotated[
        int | None, typer.Option("--n", "-n", help="Prompts of each kind. [default: 500, or 40 with --quick]")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A reading in minutes: few prompts, no Frechet distance.")
    ] = False,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps, of the full weights. [default: as the model draws]")
    ] = None,
    cfg_scale: Annotated[
        float | None, typer.Option(help="How strongly the prompt guides. [default: the model's]")
    ] = None,
    guidance: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, as of ldm generate, with the full weights.")
    ] = None,
    cache: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, as of ldm generate.")] = None,
    seed: Annotated[int, typer.Option(help="Draws prompts and noise.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Pictures generated at once.")] = 16,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where pictures and scores go. [default: the data set's cache]"),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda. [default: the best there is]")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. [default: by device]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as one JSON object.")] = False,
) -> None:
    """Measure what a model draws: is it the thing, in the style, as sharp and clean as the real pictures?"""
    import rich

    from ldm.cli.progress import Bars
    from ldm.evaluation.judge.evaluate import evaluate as evaluate_named
    from ldm.evaluation.judge.prompts import names_things
    from ldm.evaluation.pictures import evaluate_pictures
    from ldm.generation.option_entries import named_values
    from ldm.pipeline.pipeline import LatentDiffusion

    rich.reconfigure(stderr=True)  # stdout belongs to the scores
    measure = evaluate_named if names_things(data) else evaluate_pictures
    with Bars(stderr=True) as bars:
        scores = measure(
            LatentDiffusion.from_pretrained(model, dtype=dtype, device=device),
            data,
            n=n,
            steps=steps,
            guidance_scale=cfg_scale,
            seed=seed,
            batch_size=batch_size,
            folder=output,
            quick=quick,
            guidance_options=named_values("--guidance", guidance or []),
            cache_options=named_values("--cache", cache or []),
            progress=bars,
        )
    print(json.dumps(scores.to_dict(), ensure_ascii=False) if as_json else scores.to_table())
