"""`ldm eval restore`: filters and models that restore pictures, measured side by side."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer


def eval_restore(
    data: Annotated[
        str, typer.Option(help="Any folder of pictures, or a data set, whose held-out part is taken.")
    ] = "runs/data/emoji",
    n: Annotated[
        int | None, typer.Option("--n", "-n", help="How many pictures. [default: 200, or 4 with --quick]")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few pictures, wide errors.")] = False,
    damage: Annotated[
        list[str] | None, typer.Option(help="Only this one, such as 'gaussian 25' or x4; may be repeated.")
    ] = None,
    restorer: Annotated[
        str, typer.Option(help="The restorer beside the filters: restorer, the folder of one, or none.")
    ] = "restorer",
    model: Annotated[
        str | None,
        typer.Option(help="Also posterior samples of this model, and the truth through its autoencoder; slow."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses pictures and noise.")] = 0,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder of scores.json, table.md, sheet.png and plot.png.")
    ] = Path("outputs/restore"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as one JSON object.")] = False,
) -> None:
    """Measure restoration: damage by method, in PSNR, SSIM, perceptual distance and seconds."""
    from ldm.cli.progress import Bars
    from ldm.evaluation.restoration.bench import restoration_bench
    from ldm.evaluation.restoration.methods import METHODS, restorer_methods
    from ldm.io.shipped import shipped_restorers
    from ldm.tasks.restorer import Restorer

    methods, ceiling = dict(METHODS), None
    if restorer != "none" and (restorer != "restorer" or restorer in shipped_restorers()):
        methods |= restorer_methods(Restorer.from_pretrained(restorer))
    if model is not None:
        from ldm.evaluation.restoration.posterior_methods import autoencoded, posterior_methods
        from ldm.pipeline.pipeline import LatentDiffusion

        opened = LatentDiffusion.open(model)
        methods, ceiling = methods | posterior_methods(opened), partial(autoencoded, opened)
    with Bars(stderr=True) as bars:
        scores = restoration_bench(data, output, n, tuple(damage or ()), seed, quick, methods, bars, ceiling)
    print(json.dumps(scores.to_dict(), ensure_ascii=False) if as_json else scores.to_table())
