"""`ldm inspect FILE`: the recipe that a picture carries, or what a file of weights is."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def inspect(
    picture: Annotated[Path, typer.Argument(help="A PNG that was drawn, or a file of weights.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show how a picture was made, or what a file of weights is."""
    from ldm.cli.inspect_model import is_picture, show_model

    if not is_picture(picture):
        show_model(picture, as_json)
        return
    from ldm.io.metadata.foreign_recipes import foreign_recipe
    from ldm.io.metadata.png import Recipe, read_texts

    texts = read_texts(picture)
    if "ldm" in texts:
        said = asdict(Recipe.from_json(texts["ldm"], str(picture)))
        foreign = None
    else:
        foreign = foreign_recipe(texts)
        if foreign is None:
            raise OSError(f"{picture} carries no recipe; only pictures that keep their metadata can be inspected")
        said = {"tool": foreign.tool, **foreign.values}
    unused = dict(foreign.unused) if foreign else {}
    if as_json:
        print(json.dumps({**said, **({"unused": unused} if unused else {})}, ensure_ascii=False))
        return
    width = max(map(len, [*said, *unused]))
    for name, value in said.items():
        print(f"{name:{width}}  {value}")
    for name, value in unused.items():
        print(f"{name:{width}}  {value}  (not used here)")
