"""`ldm model calibrate MODEL --data DIR`: what a model folder says of its own denoiser."""

from pathlib import Path
from typing import Annotated

import typer

model_app = typer.Typer(help="Measure models.")


@model_app.callback()
def _group() -> None:
    """Keeps `calibrate` a subcommand while it is the only one."""


@model_app.command(epilog="Example: ldm model calibrate runs/mine/model --data runs/data/emoji")
def calibrate(
    model: Annotated[Path, typer.Argument(help="A model folder, which receives denoising_errors.json.")],
    data: Annotated[str, typer.Option(help="Any folder of pictures, or a data set, whose held-out part is taken.")],
    n: Annotated[int, typer.Option("--n", "-n", help="How many pictures.")] = 32,
    seed: Annotated[int, typer.Option(help="Chooses pictures and noise.")] = 0,
) -> None:
    """Measure the denoiser's error at 32 levels of noise, which `ldm reconstruct` weighs its predictions by."""
    from ldm.cli.progress import Bars
    from ldm.evaluation.calibration import denoising_error
    from ldm.io.folder.denoising_errors import FILE, save_errors
    from ldm.io.locate import find_model
    from ldm.pipeline.pipeline import LatentDiffusion

    if model.is_file():
        raise ValueError(f"{model} is a single file, which cannot hold a table; ldm convert makes a model folder of it")
    folder = find_model(str(model))
    with Bars(stderr=True) as bars:
        errors = denoising_error(LatentDiffusion.from_pretrained(folder), data, n, seed, bars)
    save_errors(errors, folder)
    print(f"{folder / FILE}  autoencoder {errors.autoencoder:.4g}, pure noise {errors.errors[-1]:.4g}")
