"""Recipes that other tools leave in their pictures: A1111's web UI and its kin, ComfyUI, InvokeAI, NovelAI."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ldm.io.metadata.a1111 import read_a1111
from ldm.io.metadata.comfyui import read_graph, read_workflow
from ldm.io.metadata.foreign import ForeignRecipe
from ldm.io.metadata.invokeai import read_invoke, read_invoke_2, read_novelai


def foreign_recipe(texts: Mapping[str, str]) -> ForeignRecipe | None:
    """The recipe in a picture's texts (keyword -> text), or None where no known tool has left one.

    The content decides, not the keyword, because tools and websites move texts about. Best effort, and never an error:
    a damaged text is no recipe.
    """
    objects = [content for text in texts.values() for content in _objects(text)]
    for read in (read_invoke, read_invoke_2, read_novelai, read_graph, read_workflow):
        for content in objects:
            try:
                recipe = read(content)
            except (RecursionError, TypeError, ValueError, KeyError, AttributeError, IndexError):
                continue  # nested deeper than any tool writes, or not what the tool writes
            if recipe is not None:
                return recipe
    ordered = sorted(texts.items(), key=lambda item: item[0] != "parameters")
    for keyword, text in ordered:
        if recipe := read_a1111(text, certain=keyword == "parameters"):
            return recipe
    return None


def _objects(text: str) -> Iterable[dict[str, Any]]:
    """The JSON objects of a text: the text itself, or what follows a word and a colon, as ComfyUI writes into EXIF."""
    content = _json_object(text)
    if content is None and (named := re.match(r"\s*\w{1,20}\s*:\s*(?=\{)", text)):
        content = _json_object(text[named.end() :])
    if content is None:
        return
    yield content
    for name in ("prompt", "workflow", "extraMetadata", "invokeai_metadata", "Comment"):
        inner = content.get(name)
        inner = _json_object(inner) if isinstance(inner, str) else inner
        if isinstance(inner, dict):
            yield inner


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
