"""The commands of `ldm`, put together. Nothing heavy is imported before one runs."""

import typer

from ldm.cli.autoencoder import autoencoder_app
from ldm.cli.convert import convert
from ldm.cli.data import data_app
from ldm.cli.doctor import doctor
from ldm.cli.errors import OneLineErrors
from ldm.cli.evaluate import evaluate
from ldm.cli.generate import generate
from ldm.cli.inspect import inspect
from ldm.cli.recipes import recipes_app
from ldm.cli.request import request
from ldm.cli.train import train_app

app = typer.Typer(
    name="ldm",
    cls=OneLineErrors,
    help="Draw pictures from words, and train the model that does it.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes around the help cost a third of its time
)
app.command()(generate)
app.command()(inspect)
app.command()(request)
app.command()(convert)
app.add_typer(data_app, name="data")
app.add_typer(train_app, name="train")
app.add_typer(recipes_app, name="recipes")
app.add_typer(autoencoder_app, name="autoencoder")
app.command("eval")(evaluate)
app.command()(doctor)
