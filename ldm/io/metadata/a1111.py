"""The text that AUTOMATIC1111's web UI, its forks and many websites write: prompt, negative prompt, a line of settings.

Facts from its own writer and reader, `modules/infotext_utils.py` of AUTOMATIC1111/stable-diffusion-webui.
"""

import json
import re
from collections.abc import Iterator

from ldm.io.metadata.foreign import Fields, ForeignRecipe

_NEGATIVE = "Negative prompt:"
_LEAST_PAIRS = 3
_NAME = re.compile(r"\w[\w \-/]{1,60}")


def _counted_from_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(f"{number} is no layer")
    return number


def _axes(tiling: str) -> str:
    if tiling != "True":
        raise ValueError(f"{tiling} is no pattern")
    return "xy"


_FIELDS: Fields = {
    "Steps": ("num_inference_steps", int),
    "Sampler": ("sampler", str),
    "Schedule type": ("schedule", str),
    "CFG scale": ("guidance_scale", float),
    "CFG rescale": ("guidance_rescale", float),
    "Seed": ("seed", int),
    "Variation seed": ("variation_seed", int),
    "Variation seed strength": ("variation_strength", float),
    "Model": ("model", str),
    "Clip skip": ("clip_skip", lambda text: -_counted_from_one(text)),
    "Tiling": ("seamless", _axes),
    "Token merging ratio": ("token_merging", float),
}
_SILENT = ("Version", "VAE hash", "Civitai metadata")


def read_a1111(text: str, certain: bool) -> ForeignRecipe | None:
    """The recipe in a text.

    The line of settings is the last one that reads as three or more `Name: value`. Lines behind it, as templates and
    hashes of extensions, are not part of a prompt.

    Args:
        text: of the picture.
        certain: the text's keyword says what it is, so that a text without settings is a prompt.
    """
    lines = text.strip().replace("\r\n", "\n").split("\n")
    at = _line_of_settings(lines)
    if at is None and not certain:
        return None
    prompts: dict[str, list[str]] = {"prompt": [], "negative_prompt": []}
    into = "prompt"
    for line in lines[:at]:
        if line.strip().startswith(_NEGATIVE):
            into, line = "negative_prompt", line.strip().removeprefix(_NEGATIVE).strip()
        prompts[into].append(line)
    recipe = ForeignRecipe("A1111", {name: "\n".join(content).strip() for name, content in prompts.items()})
    if at is not None:
        settings = dict(_pairs(lines[at]))
        for name, value in settings.items():
            width, _, height = value.partition("x")
            if name == "Size" and width.isdecimal() and height.isdecimal():
                recipe.values.update(width=int(width), height=int(height))
            elif name not in _SILENT:
                recipe.keep(name, value, _FIELDS)
        if "sampler" in recipe.values:
            recipe.values.setdefault("schedule", "Automatic")
        for line in lines[at + 1 :]:
            name, colon, value = line.partition(":")
            if colon and value.strip() and _NAME.fullmatch(name.strip()):
                recipe.unused[name.strip()] = value.strip()
    return recipe if certain or recipe.values.keys() - prompts.keys() else None


def _line_of_settings(lines: list[str]) -> int | None:
    """The number of the line that begins with the steps, or else of the last one with enough settings."""
    found = None
    for number in reversed(range(len(lines))):
        pairs = list(_pairs(lines[number]))
        if len(pairs) >= _LEAST_PAIRS:
            if pairs[0][0] == "Steps":
                return number
            found = number if found is None else found
    return found


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """The `Name: value` of a line; a value with commas is in quotes, or JSON. In one pass."""
    decoder, position = json.JSONDecoder(), 0
    while position < len(line):
        comma = line.find(",", position)
        end = len(line) if comma < 0 else comma
        colon = line.find(":", position, end)
        name = line[position:colon].strip() if colon >= 0 else ""
        position = end + 1
        if not _NAME.fullmatch(name):
            continue
        value = line[colon + 1 : end].strip()
        if value[:1] in ('"', "[", "{"):
            start = colon + 1 + len(line[colon + 1 :]) - len(line[colon + 1 :].lstrip())
            try:
                content, end = decoder.raw_decode(line, start)
            except (ValueError, RecursionError):
                value = value.strip('"')
            else:
                value = content if isinstance(content, str) else line[start:end]
                position = len(line) if line.find(",", end) < 0 else line.find(",", end) + 1
        yield name, value
