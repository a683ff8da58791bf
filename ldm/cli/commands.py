"""The commands of `ldm`, put together. Nothing heavy is imported before one runs."""

from typing import Annotated

import typer

import ldm
from ldm.cli.autoencoder import autoencoder_app
from ldm.cli.convert import convert
from ldm.cli.data import data_app
from ldm.cli.degrade import InOrder, degrade
from ldm.cli.doctor import doctor
from ldm.cli.errors import OneLineErrors
from ldm.cli.eval_restore import eval_restore
from ldm.cli.evaluate import evaluate
from ldm.cli.generate import generate
from ldm.cli.grid import grid
from ldm.cli.help import GroupedHelp
from ldm.cli.inspect import inspect
from ldm.cli.library import config_app, listing
from ldm.cli.model import model_app
from ldm.cli.recipes import recipes_app
from ldm.cli.request import request
from ldm.cli.restore import denoise, restore
from ldm.cli.tasks import edit, inpaint, outpaint, reconstruct, upscale
from ldm.cli.train import train_app
from ldm.io.disk.installed import installed_folder


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"ldm {ldm.__version__}")
        raise typer.Exit


app = typer.Typer(
    name="ldm",
    cls=OneLineErrors,
    help="Draw pictures from words, and train the model that does it.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes around the help cost a third of its time
)


@app.callback(epilog='Example: ldm generate "a red apple, 3d style"')
def _ldm(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Draw pictures from words, and train the model that does it."""


_PAGES = f"The pages prompts.md, guidance.md and samplers.md are in {installed_folder('docs', 'doc/ldm')}."
app.command(cls=GroupedHelp, epilog=f'Example: ldm generate "a red apple, 3d style" --n 4 --seed 7\n\n{_PAGES}')(
    generate
)
app.command(
    cls=GroupedHelp,
    epilog="Example: ldm grid 'a red apple' --x steps=4,8,16 --y sampler=ddim,dpmpp_2m --z S/R=apple,pear --seed 7",
)(grid)
_TASKS = f"The page tasks.md is in {installed_folder('docs', 'doc/ldm')}."
for command, example in (
    (edit, 'ldm edit apple.png "a green apple, 3d style" --strength 0.7'),
    (inpaint, 'ldm inpaint room.png "a cat on a chair" --mask chair.png --feather 4'),
    (upscale, "ldm upscale apple.png --by 4"),
    (reconstruct, "ldm reconstruct blurred.png --operator blur=2 --noise-level 5"),
    (outpaint, 'ldm outpaint apple.png "a red apple on a table" --left 64 --right 64'),
):
    app.command(cls=GroupedHelp, epilog=f"Example: {example}\n\n{_TASKS}")(command)
app.command(epilog="Example: ldm inspect outputs/a-red-apple-3d-style-7.png")(inspect)
app.command(cls=InOrder, epilog="Example: ldm degrade photo.png --blur 2 --noise gaussian=5 --jpeg 30 -o spoilt.png")(
    degrade
)
app.command(epilog="Example: ldm denoise photo.jpg --noise gaussian=25 -o clean.png")(denoise)
app.command(epilog="Example: ldm restore photo.jpg --damage jpeg,blur -o clean.png")(restore)
app.command(epilog="Example: ldm request --schema")(request)
app.command(epilog="Example: ldm convert v1-5-pruned.safetensors model --to hf")(convert)
app.add_typer(data_app, name="data")
app.add_typer(train_app, name="train")
app.add_typer(recipes_app, name="recipes")
app.add_typer(autoencoder_app, name="autoencoder")
app.add_typer(model_app, name="model")
for what in ("models", "loras", "embeddings", "samplers", "schedules"):
    app.add_typer(listing(what), name=what)
app.add_typer(config_app, name="config")
app.command("eval", epilog="Example: ldm eval emoji --quick")(evaluate)
app.command("eval-restore", epilog="Example: ldm eval restore --data photos --quick")(eval_restore)
app.command(epilog="Example: ldm doctor --json")(doctor)
