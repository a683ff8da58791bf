"""`ldm inspect x.png`: the recipe that a picture carries."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def inspect(
    picture: Annotated[Path, typer.Argument(help="A PNG that ldm, or a tool with A1111's metadata, has drawn.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show how a picture was made."""
    from ldm.io.metadata import Recipe, read_texts

    texts = read_texts(picture)
    if "ldm" in texts:
        recipe = asdict(Recipe.from_json(texts["ldm"], str(picture)))
        if as_json:
            print(json.dumps(recipe, ensure_ascii=False))
            return
        width = max(map(len, recipe))
        for name, value in recipe.items():
            print(f"{name:{width}}  {value}")
    elif "parameters" in texts:
        print(json.dumps({"parameters": texts["parameters"]}, ensure_ascii=False) if as_json else texts["parameters"])
    else:
        raise OSError(f"{picture} carries no recipe; only pictures that keep their metadata can be inspected")
