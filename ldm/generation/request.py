"""What one call of `ldm generate` asks for: from its options, from a picture's recipe, or from both."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm.io.metadata.foreign_recipes import ForeignRecipe
    from ldm.io.metadata.png import Recipe

DEFAULT_MODEL = "emoji"
_SYNTAX = {"A1111": "a1111", "ComfyUI": "comfy", "InvokeAI": "plain"}


@dataclass(frozen=True)
class Request:
    """Names and meanings as in `LatentDiffusion`; None leaves the choice to the model.

    asked: what a single file is, by the words of `LatentDiffusion.from_single_file`. loras: weight by file.
    embeddings: word by file. regions: prompt by the file of its mask.
    """

    prompts: list[str] = field(default_factory=list)
    n: int = 1
    model: str = DEFAULT_MODEL
    negative_prompt: str = ""
    seed: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_rescale: float | None = None
    sampler: str | None = None
    schedule: str | None = None
    width: int | None = None
    height: int | None = None
    upscale: bool = True
    device: str | None = None
    dtype: str | None = None
    clip_skip: int = 0
    prompt_syntax: str = "a1111"
    wildcards: Path | None = None
    guidance_options: Mapping[str, Any] = field(default_factory=dict)
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    schedule_options: Mapping[str, Any] = field(default_factory=dict)
    weak_model: str = ""
    loras: Mapping[str, Any] = field(default_factory=dict)
    embeddings: Mapping[str, str] = field(default_factory=dict)
    regions: Mapping[str, str] = field(default_factory=dict)
    conditions: Mapping[str, Any] = field(default_factory=dict)
    load_options: Mapping[str, Any] = field(default_factory=dict)

    def changed(self, given: Mapping[str, Any]) -> "Request":
        """The request with every option that was given (is not None and not empty) in place of its own."""
        changes = {name: value for name, value in given.items() if value is not None and value not in ([], {}, ())}
        if self.upscale != changes.get("upscale", self.upscale):
            # A size is that of the finished picture: it means something else without the upscaler.
            changes = {"width": None, "height": None} | changes
        return replace(self, **changes)

    def check(self) -> None:
        """Refuse, before the seconds that loading a model takes, what no model could draw. Raises ValueError."""
        if not self.prompts:
            raise ValueError('PROMPT is missing; say what to draw, e.g. ldm generate "a red apple, 3d style"')
        for prompt in self.prompts:
            if not prompt.strip():
                raise ValueError('PROMPT is empty; say what to draw, e.g. ldm generate "a red apple, 3d style"')
            if any("\ud800" <= character <= "\udfff" for character in prompt):
                raise ValueError("PROMPT is not valid UTF-8; check the terminal's encoding")
        if self.n < 1:
            raise ValueError(f"--n {self.n} pictures cannot be drawn; use 1 or more")
        sizes = ("--steps", self.num_inference_steps), ("--width", self.width), ("--height", self.height)
        for name, value in sizes:
            if value is not None and value < 1:
                raise ValueError(f"{name} {value} is not possible; use 1 or more")


def request_from(picture: Path) -> tuple[Request, list[str]]:
    """The request that repeats a picture, and what of its recipe could not be used, a line each.

    Our own pictures repeat to the byte. Of other tools' (A1111, ComfyUI, InvokeAI) everything is taken that has a
    counterpart here.

    Raises FileNotFoundError or ValueError for a file without a recipe.
    """
    from ldm.io.metadata.foreign_recipes import foreign_recipe
    from ldm.io.metadata.png import Recipe, read_texts

    texts = read_texts(picture)
    if "ldm" in texts:
        return _from_own(Recipe.from_json(texts["ldm"], str(picture))), []
    foreign = foreign_recipe(texts)
    if foreign is None:
        raise ValueError(f"{picture} carries no recipe; only pictures that keep their metadata can be repeated")
    return _from_foreign(foreign)


def _from_own(recipe: "Recipe") -> Request:
    shared = {each.name for each in fields(Request)} & {each.name for each in fields(recipe)}
    return Request(prompts=[recipe.prompt], **{name: getattr(recipe, name) for name in shared})


def _from_foreign(recipe: "ForeignRecipe") -> tuple[Request, list[str]]:
    from ldm.generation.sampler_names import resolve
    from ldm.io.locate import shipped_models

    values, unused = dict(recipe.values), dict(recipe.unused)
    for name in ("sampler", "schedule"):
        spelling = values.get(name)
        try:
            resolve(*((spelling, None) if name == "sampler" else (None, spelling)))  # type: ignore[arg-type]
        except ValueError:
            unused[name] = str(values.pop(name))
    model = str(values.pop("model", ""))
    if model in shipped_models() or Path(model).is_dir():
        values["model"] = model
    elif model:
        unused["model"] = f"{model}; name one with --model"
    prompt = str(values.pop("prompt", ""))
    request = Request(prompts=[prompt], prompt_syntax=_SYNTAX[recipe.tool]).changed(values)
    return request, [f"{recipe.tool}'s {name} is not used: {value[:100]}" for name, value in unused.items()]


def named_values(option: str, entries: Sequence[str]) -> dict[str, Any]:
    """`["eta=0.5", "solver_type=heun"]` -> {"eta": 0.5, "solver_type": "heun"}; values are JSON, else words.

    Raises ValueError for an entry without `=`.
    """
    values = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not equals or not name:
            raise ValueError(f"{option} {entry} has no value; write NAME=VALUE")
        values[name.strip()] = _value(text.strip())
    return values


def weighted_files(option: str, entries: Sequence[str]) -> dict[str, float]:
    """`["ink.safetensors=0.8"]` -> {"ink.safetensors": 0.8}; without a number it is 1.

    Raises ValueError for a weight that is no number.
    """
    files = {}
    for entry in entries:
        path, equals, text = entry.rpartition("=")
        try:
            files[path if equals else entry] = float(text) if equals else 1.0
        except ValueError:
            raise ValueError(f"{option} {entry}: {text!r} is no weight; write FILE or FILE=0.8") from None
    return files


def _value(text: str) -> Any:
    try:
        return float(text) if text.lower() in ("inf", "-inf") else json.loads(text)
    except json.JSONDecodeError:
        return text
