"""`ldm inspect FILE`: the recipe that a picture carries, or what a file or folder of weights is."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ldm.naming import printable


def inspect(
    picture: Annotated[
        Path, typer.Argument(help="A PNG with a recipe, a file or folder of weights, or a shipped name.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show how a picture was made, or what a file or folder of weights is."""
    from ldm.cli.inspect_model import is_picture, show_model
    from ldm.io.shipped import shipped_models, shipped_restorers

    shipped = shipped_models() | shipped_restorers()
    picture = picture if picture.exists() else shipped.get(str(picture), picture)
    if not is_picture(picture):
        show_model(picture, as_json)
        return
    from ldm.generation.from_picture import recipe_in
    from ldm.generation.recipe import Recipe
    from ldm.io.metadata.texts import read_texts

    texts = read_texts(picture)
    unused: dict[str, str] = {}
    if (record := texts.get("degradation") or texts.get("restoration")) is not None:
        said = {"tool": "ldm degrade", **json.loads(record)}  # a restoration says itself which tool it was
    else:
        recipe = recipe_in(picture)
        said = asdict(recipe) if isinstance(recipe, Recipe) else {"tool": recipe.tool, **recipe.values}
        unused = {} if isinstance(recipe, Recipe) else dict(recipe.unused)
    if as_json:
        print(json.dumps({**said, **({"unused": unused} if unused else {})}, ensure_ascii=False))
        return
    said = {name: value for name, value in said.items() if value not in (None, "", (), [], {})}
    width = max(map(len, [*said, *unused]))
    for name, value in said.items():
        print(f"{name:{width}}  {printable(str(value))}")
    for name, value in unused.items():
        print(f"{printable(name):{width}}  {printable(value)}  (not used here)")
