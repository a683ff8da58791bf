"""The request that repeats a picture, read from its file."""

from dataclasses import fields
from pathlib import Path

from ldm.generation.recipe import Recipe
from ldm.generation.request import Request, in_range, setting_of
from ldm.generation.sampler_names import resolve
from ldm.io.locate import shipped_models
from ldm.io.metadata.foreign_recipes import ForeignRecipe, foreign_recipe
from ldm.io.metadata.png import read_texts

_SYNTAX = {"A1111": "a1111", "ComfyUI": "comfy", "InvokeAI": "plain"}


def recipe_in(picture: Path) -> Recipe | ForeignRecipe:
    """The request in a picture's metadata, ours or another tool's (A1111, ComfyUI, InvokeAI).

    Raises:
        FileNotFoundError, ValueError: no file, no picture, no recipe, or a damaged one.
    """
    texts = read_texts(picture)
    if "ldm" in texts:
        return Recipe.from_json(texts["ldm"], str(picture))
    foreign = foreign_recipe(texts)
    if foreign is None:
        raise ValueError(f"{picture} carries no recipe; only pictures that keep their metadata can be repeated")
    return foreign


def request_from(picture: Path) -> tuple[Request, list[str]]:
    """The request that repeats a picture, and what of its recipe could not be used, a line each.

    Our own pictures repeat to the byte. Of other tools' everything is taken that has a counterpart here.

    Raises:
        FileNotFoundError, ValueError: as `recipe_in`.
    """
    recipe = recipe_in(picture)
    return (recipe.request(), []) if isinstance(recipe, Recipe) else _from_foreign(recipe)


def _from_foreign(recipe: ForeignRecipe) -> tuple[Request, list[str]]:
    values, unused = dict(recipe.values), dict(recipe.unused)
    for name in ("sampler", "schedule"):
        spelling = values.get(name)
        try:
            resolve(*((spelling, None) if name == "sampler" else (None, spelling)))
        except ValueError:
            unused[name] = str(values.pop(name))
    for each in fields(Request):
        if each.name in values and not in_range(setting_of(each), values[each.name]):
            unused[each.name] = f"{values.pop(each.name)} is beyond sense"
    model = str(values.pop("model", ""))
    if model in shipped_models() or (model and Path(model).is_dir()):
        values["model"] = model
    elif model:
        unused["model"] = f"{model}; name one with --model"
    request = Request(prompt_syntax=_SYNTAX[recipe.tool]).changed(values)
    return request, [f"{recipe.tool}'s {name} is not used: {value[:100]}" for name, value in unused.items()]
