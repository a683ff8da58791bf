"""`ldm data build NAME` and `ldm data check DIR`: pictures and captions to train on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ldm.data.sources.open_source import SourceConfig

data_app = typer.Typer(help="Build and check data sets.")


@data_app.command(epilog="Example: ldm data build digits")
def build(
    name: Annotated[str, typer.Argument(help="emoji or digits.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder to fill. [default: runs/data/NAME]")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Height and width of the pictures. [default: the recipe's]")] = None,
    seed: Annotated[
        int, typer.Option(help="Draws captions, scenes and order; the same seed gives the same bytes.")
    ] = 0,
    scenes: Annotated[int | None, typer.Option(help="emoji: how many composed scenes. [default: the recipe's]")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="emoji: where fetched packages are kept. [default: the user's cache folder]")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="emoji: rendering processes. [default: the recipe's]")] = None,
) -> None:
    """Fetch, render and caption a data set; an interrupted build goes on where it was."""
    from ldm.naming import look_up

    look_up("data set", name, dict.fromkeys(("emoji", "digits")))
    folder = output or Path("runs/data") / name
    sized = {} if size is None else {"size": size}
    if name == "emoji":
        from ldm.cli.progress import Bars
        from ldm.data.recipes.emoji.build import build_emoji

        counted = {key: value for key, value in (("scenes", scenes), ("workers", workers)) if value is not None}
        with Bars() as bars:
            build_emoji(folder, seed=seed, cache=cache, progress=bars, **sized, **counted)
    else:
        from ldm.data.recipes.digits import build_digits

        for option, value in (("--scenes", scenes), ("--cache", cache), ("--workers", workers)):
            if value is not None:
                raise ValueError(f"{option} {value} belongs to emoji; digits has --size and --seed only")
        build_digits(folder, seed=seed, **sized)
    print(f"{folder} is ready; its card is {folder / 'card.md'}")


@data_app.command(epilog="Example: ldm data check runs/data/digits")
def check(
    data: Annotated[
        str,
        typer.Argument(
            help="A folder of pictures or shards, an address, hub:owner/name, or a training's config (.yaml)."
        ),
    ],
) -> None:
    """List bad pictures and empty captions; exit code 1 if there are any."""
    from ldm.cli.progress import Bars
    from ldm.data.check import check_all

    with Bars(stderr=True) as bars:
        problems = check_all(_sources(data), bars)
    for problem in problems:
        print(problem)
    if problems:
        raise OSError(f"{len(problems)} problems in {data}")
    print(f"{data}: no problems")


def _sources(data: str) -> "list[SourceConfig]":
    from ldm.data.sources.open_source import SourceConfig

    if not data.endswith((".yaml", ".yml")):
        return [SourceConfig(data)]
    from ldm.training.stages.config_file import load_run

    return load_run(data).data.all_sources
