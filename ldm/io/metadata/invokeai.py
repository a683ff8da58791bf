"""What InvokeAI (2 to 5) and NovelAI write as JSON.

Facts from `invokeai/app/invocations/metadata.py` of invoke-ai/InvokeAI, its documents on metadata for version 2, and
NovelAI's own pictures.
"""

from typing import Any

from ldm.io.metadata.foreign import Fields, ForeignRecipe

_FIELDS: Fields = {
    "positive_prompt": ("prompt", str),
    "negative_prompt": ("negative_prompt", str),
    "seed": ("seed", int),
    "steps": ("num_inference_steps", int),
    "cfg_scale": ("guidance_scale", float),
    "cfg_rescale_multiplier": ("guidance_rescale", float),
    "scheduler": ("sampler", str),
    "sampler": ("sampler", str),
    "width": ("width", int),
    "height": ("height", int),
    "clip_skip": ("clip_skip", lambda value: -int(value) - 1),
}
_SILENT = ("app_version", "generation_mode", "rand_device", "type", "model_hash", "model_weights", "postprocessing")
_NOVEL_FIELDS: Fields = {
    "prompt": ("prompt", str),
    "uc": ("negative_prompt", str),
    "seed": ("seed", int),
    "steps": ("num_inference_steps", int),
    "scale": ("guidance_scale", float),
    "cfg_rescale": ("guidance_rescale", float),
    "sampler": ("sampler", str),
    "noise_schedule": ("schedule", str),
    "width": ("width", int),
    "height": ("height", int),
}


def read_invoke(content: dict[str, Any]) -> ForeignRecipe | None:
    """`invokeai_metadata`, version 3 and later."""
    if "positive_prompt" not in content:
        return None
    recipe = ForeignRecipe("InvokeAI")
    for name, value in content.items():
        if name == "model" and isinstance(value, dict):
            recipe.values["model"] = str(value.get("name") or value.get("model_name") or "")
        elif name not in _SILENT and value not in (None, [], {}):
            recipe.keep(name, value, _FIELDS)
    return recipe


def read_invoke_2(content: dict[str, Any]) -> ForeignRecipe | None:
    """`sd-metadata` of version 2: the prompt is a list of weighted texts; what is in [brackets] is negative."""
    image = content.get("image")
    if "model_weights" not in content or not isinstance(image, dict):
        return None
    recipe = ForeignRecipe("InvokeAI", {"model": str(content["model_weights"])})
    prompt = image.get("prompt")
    if isinstance(prompt, list):
        prompt = " ".join(str(part.get("prompt", "")) for part in prompt if isinstance(part, dict))
    positive, negative = _split_brackets(str(prompt or ""))
    recipe.values.update(prompt=positive, negative_prompt=negative)
    for name, value in image.items():
        if name not in (*_SILENT, "prompt") and value not in (None, [], {}, False):
            recipe.keep(name, value, _FIELDS)
    return recipe


def read_novelai(content: dict[str, Any]) -> ForeignRecipe | None:
    """`Comment` of a NovelAI picture."""
    if not isinstance(content.get("prompt"), str) or "uc" not in content or "scale" not in content:
        return None
    recipe = ForeignRecipe("NovelAI")
    for name in _NOVEL_FIELDS:
        if content.get(name) is not None:
            recipe.keep(name, content[name], _NOVEL_FIELDS)
    if any(mark in str(recipe.values.get(role, "")) for mark in "{}" for role in ("prompt", "negative_prompt")):
        recipe.unused["weights"] = "NovelAI's {braces} are read as text; write (word:1.05)"
    return recipe


def _split_brackets(prompt: str) -> tuple[str, str]:
    positive: list[str] = []
    negative: list[str] = []
    depth = 0
    for character in prompt:
        if character == "[":
            depth += 1
        elif character == "]" and depth:
            depth -= 1
            negative.append(" ")
        else:
            (negative if depth else positive).append(character)
    return " ".join("".join(positive).split()), " ".join("".join(negative).split())
