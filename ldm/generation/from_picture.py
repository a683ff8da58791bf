"""The request that repeats a picture, read from its file."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from ldm.generation.recipe import Recipe
from ldm.generation.request import DEFAULT_MODEL, Request
from ldm.generation.sampler_names import OWN_SCHEDULES, resolve, stand_in
from ldm.generation.setting import in_range, setting_of
from ldm.io.library import known_path
from ldm.io.metadata.foreign import ForeignRecipe
from ldm.io.metadata.foreign_recipes import foreign_recipe
from ldm.io.metadata.texts import read_texts
from ldm.io.shipped import shipped_models

_SYNTAX = {"A1111": "a1111", "ComfyUI": "comfy", "InvokeAI": "compel", "NovelAI": "plain"}


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
        found = f"only {', '.join(texts)}" if texts else "no text at all"
        raise ValueError(f"{picture} carries no recipe that is known here, {found}; websites often take recipes away")
    return foreign


def request_from(picture: Path) -> tuple[Request, list[str]]:
    """The request that repeats a picture, and what of its recipe was replaced or could not be used, a line each.

    Our own pictures repeat to the byte. Of other tools' everything is taken that has a counterpart here.

    Raises:
        FileNotFoundError, ValueError: as `recipe_in`.
    """
    recipe = recipe_in(picture)
    return (recipe.request(), []) if isinstance(recipe, Recipe) else _from_foreign(recipe)


def _from_foreign(recipe: ForeignRecipe) -> tuple[Request, list[str]]:
    values, unused = dict(recipe.values), dict(recipe.unused)
    replaced = _replace_names(values, unused)
    for each in fields(Request):
        if each.name in values and not in_range(setting_of(each), values[each.name]):
            unused[each.name] = f"{values.pop(each.name)} is beyond sense"
    model = str(values.pop("model", "")).strip()
    path = model if model in shipped_models() or not model else known_path("models", model)
    if path in shipped_models() or _is_model(Path(path)):
        values["model"] = path
    elif model:
        unused["model"] = f"{model}; {DEFAULT_MODEL} is taken, name another one with --model"
    else:
        replaced.append(f"recipe names no model; {DEFAULT_MODEL} is taken, name another one with --model")
    if "model" not in values:  # the default one has one text encoder
        second = [name for name in ("prompt_2", "negative_prompt_2") if name in values]
        unused |= {name: f"{values.pop(name)}; give it with --model, where that is an SDXL" for name in second}
    request = Request(prompt_syntax=_SYNTAX[recipe.tool])
    for name, value in values.items():
        try:
            changed = request.changed({name: value})
            changed.check()
            request = changed
        except ValueError as error:
            unused[name] = str(error)
    lines = [f"{recipe.tool}'s {name} is not used: {value[:100]}" for name, value in unused.items()]
    return request, [*(f"{recipe.tool}'s {line}" for line in replaced), *lines]


def _replace_names(values: dict[str, Any], unused: dict[str, str]) -> list[str]:
    """Put what is nearest for a sampler or schedule that is not here, a line each; without any it is unused."""
    lines = []
    for kind in ("sampler", "schedule"):
        spelling = values.get(kind)
        try:
            resolve(*((spelling, None) if kind == "sampler" else (None, spelling)))
        except ValueError:
            known = stand_in(kind, str(values.pop(kind)))
            if known is None:
                unused[kind] = str(spelling)
            else:
                values[kind] = known[0]
                lines.append(f"{kind} {spelling} is not here; the nearest is taken, {known[0]}, {known[1]}")
    names = resolve(values.get("sampler"), values.get("schedule"))
    own = OWN_SCHEDULES.get(names.sampler or "")
    if own is not None and names.schedule != own:
        values["schedule"] = own
        if names.schedule is not None:
            lines.append(f"schedule {names.schedule} is without effect beside {names.sampler}, which walks {own}")
    return lines


def _is_model(path: Path) -> bool:
    """Whether a recipe's model is a file or folder here, and no empty or dotted path by accident."""
    return bool(path.name.strip(".")) and (path.is_file() or (path / "model_index.json").is_file())
