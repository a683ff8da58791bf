"""`ldm inspect FILE`: the recipe that a picture carries, or what a file of weights is."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def inspect(
    picture: Annotated[Path, typer.Argument(help="A PNG with a recipe, or a file of weights.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show how a picture was made, or what a file of weights is."""
    from ldm.cli.inspect_model import is_picture, show_model

    if not is_picture(picture):
        show_model(picture, as_json)
        return
    from ldm.generation.from_picture import recipe_in
    from ldm.generation.recipe import Recipe

    recipe = recipe_in(picture)
    said = asdict(recipe) if isinstance(recipe, Recipe) else {"tool": recipe.tool, **recipe.values}
    unused = {} if isinstance(recipe, Recipe) else dict(recipe.unused)
    if as_json:
        print(json.dumps({**said, **({"unused": unused} if unused else {})}, ensure_ascii=False))
        return
    said = {name: value for name, value in said.items() if value not in (None, "", (), [], {})}
    width = max(map(len, [*said, *unused]))
    for name, value in said.items():
        print(f"{name:{width}}  {value}")
    for name, value in unused.items():
        print(f"{name:{width}}  {value}  (not used here)")
