"""Recipes that other tools leave in their pictures: A1111's web UI and its kin, ComfyUI, InvokeAI.

Facts from the tools' own writers: `modules/infotext_utils.py` of AUTOMATIC1111/stable-diffusion-webui, the `prompt`
graph of comfyanonymous/ComfyUI's API format, `invokeai/app/invocations/metadata.py` of invoke-ai/InvokeAI.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Value = str | int | float
_Node = Mapping[str, Any]


@dataclass(frozen=True)
class ForeignRecipe:
    """What a picture of another tool says of its making.

    Attributes:
        tool: `A1111 | ComfyUI | InvokeAI`.
        values: what we understand, by the names of `Recipe`; sampler, schedule and model
            as the tool names them. Sizes and counts are ints, the rest is as it stood.
        unused: what else it says, by its own names: steps of its making that we cannot repeat from here.
    """

    tool: str
    values: dict[str, Value] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)


def foreign_recipe(texts: Mapping[str, str]) -> ForeignRecipe | None:
    """The recipe in a picture's text chunks (keyword -> text), or None where no known tool has left one.

    Best effort, and never an error: a damaged chunk is no recipe.
    """
    for keyword, read in _READERS.items():
        if keyword in texts:
            try:
                recipe = read(texts[keyword])
            except RecursionError:  # nested deeper than any tool writes
                continue
            if recipe is not None and recipe.values:
                return recipe
    return None


_A1111_FIELDS: dict[str, tuple[str, Callable[[str], Value]]] = {
    "Steps": ("num_inference_steps", int),
    "Sampler": ("sampler", str),
    "Schedule type": ("schedule", str),
    "CFG scale": ("guidance_scale", float),
    "CFG rescale": ("guidance_rescale", float),
    "Seed": ("seed", int),
    "Model": ("model", str),
    # A1111 counts the last layer as 1, diffusers and we count the layers that are left out.
    "Clip skip": ("clip_skip", lambda text: int(text) - 1),
}
# A name is short: otherwise a text without colons would be read once for each of its letters.
_A1111_PAIR = re.compile(r'(\w[\w \-/]{1,80}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_A1111_NEGATIVE = "Negative prompt:"


def _from_a1111(text: str) -> ForeignRecipe | None:
    """`parameters`: the prompt, `Negative prompt: ...`, and a last line of `Name: value` pairs."""
    *lines, last = text.strip().split("\n")
    pairs = {name: value.strip().strip('"') for name, value in _A1111_PAIR.findall(last)}
    if len(pairs) < 3:  # the web UI's own rule: such a line is still prompt
        lines, pairs = [*lines, last], {}
    prompts: dict[str, list[str]] = {"prompt": [], "negative_prompt": []}
    into = "prompt"
    for line in lines:
        if line.strip().startswith(_A1111_NEGATIVE):
            into, line = "negative_prompt", line.strip().removeprefix(_A1111_NEGATIVE).strip()
        prompts[into].append(line)
    recipe = ForeignRecipe("A1111", {name: "\n".join(text).strip() for name, text in prompts.items()})
    for name, value in pairs.items():
        width, _, height = value.partition("x")
        if name == "Size" and width.isdigit() and height.isdigit():
            recipe.values.update(width=int(width), height=int(height))
        elif name != "Version":
            _keep(recipe, name, value, _A1111_FIELDS)
    return recipe


_INVOKE_FIELDS: dict[str, tuple[str, Callable[[Any], Value]]] = {
    "positive_prompt": ("prompt", str),
    "negative_prompt": ("negative_prompt", str),
    "seed": ("seed", int),
    "steps": ("num_inference_steps", int),
    "cfg_scale": ("guidance_scale", float),
    "cfg_rescale_multiplier": ("guidance_rescale", float),
    "scheduler": ("sampler", str),
    "width": ("width", int),
    "height": ("height", int),
    "clip_skip": ("clip_skip", int),
}
_INVOKE_SILENT = ("app_version", "generation_mode", "rand_device")


def _from_invoke(text: str) -> ForeignRecipe | None:
    content = _json_object(text)
    if content is None:
        return None
    recipe = ForeignRecipe("InvokeAI")
    for name, value in content.items():
        if name == "model" and isinstance(value, dict):
            recipe.values["model"] = str(value.get("name") or value.get("model_name") or "")
        elif name not in _INVOKE_SILENT and value not in (None, [], {}):
            _keep(recipe, name, value, _INVOKE_FIELDS)
    return recipe


_COMFY_SAMPLER_FIELDS: dict[str, tuple[str, Callable[[Any], Value]]] = {
    "seed": ("seed", int),
    "noise_seed": ("seed", int),
    "steps": ("num_inference_steps", int),
    "cfg": ("guidance_scale", float),
    "sampler_name": ("sampler", str),
    "scheduler": ("schedule", str),
}
_COMFY_FOLLOWED = ("positive", "negative", "latent_image", "model")
_COMFY_WITHOUT_EFFECT = {
    "denoise": 1.0,
    "add_noise": "enable",
    "start_at_step": 0,
    "return_with_leftover_noise": "disable",
}


def _from_comfy(text: str) -> ForeignRecipe | None:
    """`prompt`: the graph of nodes {id: {class_type, inputs}}; an input [id, slot] is another node's output."""
    graph = _json_object(text)
    if graph is None:
        return None
    nodes = {
        key: node for key, node in graph.items() if isinstance(node, dict) and isinstance(node.get("inputs"), dict)
    }
    samplers = [node for node in nodes.values() if "steps" in node["inputs"] and "positive" in node["inputs"]]
    if not samplers:
        return None
    recipe, inputs = ForeignRecipe("ComfyUI"), samplers[0]["inputs"]
    for name, value in inputs.items():
        if name in _COMFY_FOLLOWED or _COMFY_WITHOUT_EFFECT.get(name) == value:
            continue
        if _is_link(value):
            recipe.unused[name] = "comes from another node"
        elif name != "end_at_step":
            _keep(recipe, name, value, _COMFY_SAMPLER_FIELDS)
    if len(samplers) > 1:
        recipe.unused["samplers"] = f"{len(samplers)} in the workflow; the first one is read"
    for name, role in (("positive", "prompt"), ("negative", "negative_prompt")):
        texts = [node["inputs"]["text"] for node in _upstream(nodes, inputs.get(name)) if _has_text(node)]
        if texts:
            recipe.values[role] = texts[0]
        if len(texts) > 1:
            recipe.unused[name] = f"{len(texts)} texts are joined; the first one is read"
    _comfy_latent(recipe, [*_upstream(nodes, inputs.get("latent_image"))])
    _comfy_model(recipe, [*_upstream(nodes, inputs.get("model")), *_upstream(nodes, inputs.get("positive"))])
    return recipe


def _comfy_latent(recipe: ForeignRecipe, nodes: list[_Node]) -> None:
    for node in nodes:
        width, height = node["inputs"].get("width"), node["inputs"].get("height")
        if isinstance(width, int) and isinstance(height, int):
            recipe.values.update(width=width, height=height)
            return
    if nodes:
        recipe.unused["latent_image"] = str(nodes[0].get("class_type", "another picture"))


def _comfy_model(recipe: ForeignRecipe, nodes: list[_Node]) -> None:
    for node in nodes:
        inputs = node["inputs"]
        if isinstance(inputs.get("ckpt_name"), str):
            recipe.values["model"] = inputs["ckpt_name"]
        if isinstance(inputs.get("stop_at_clip_layer"), int):
            recipe.values["clip_skip"] = -inputs["stop_at_clip_layer"] - 1
        if isinstance(inputs.get("lora_name"), str):
            recipe.unused["lora"] = f"{inputs['lora_name']} at {inputs.get('strength_model', 1.0)}"


def _upstream(nodes: Mapping[str, _Node], link: Any) -> Iterator[_Node]:
    """The node that a link comes from, then those that feed it, nearest first; each once."""
    waiting, seen = [link], set()
    while waiting:
        link = waiting.pop(0)
        if not _is_link(link) or link[0] in seen or link[0] not in nodes:
            continue
        seen.add(link[0])
        yield nodes[link[0]]
        waiting += nodes[link[0]]["inputs"].values()


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _has_text(node: _Node) -> bool:
    return isinstance(node["inputs"].get("text"), str)


def _keep(
    recipe: ForeignRecipe, name: str, value: Any, known: Mapping[str, tuple[str, Callable[[Any], Value]]]
) -> None:
    """Put one field where it belongs; what is unknown or malformed is kept among what we do not use."""
    if name in known:
        ours, read = known[name]
        try:
            recipe.values[ours] = read(value)
            return
        except (TypeError, ValueError, OverflowError):
            pass
    recipe.unused[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


_READERS: dict[str, Callable[[str], ForeignRecipe | None]] = {
    "invokeai_metadata": _from_invoke,
    "prompt": _from_comfy,
    "parameters": _from_a1111,
}
