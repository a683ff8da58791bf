"""The editor's form of ComfyUI's graphs, turned into the API's."""

from collections.abc import Mapping
from typing import Any

_SEED = ("noise_seed", "control_after_generate")
_WIDGETS: dict[str, tuple[str, ...]] = {
    "KSampler": ("seed", "control_after_generate", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": (
        *("add_noise", *_SEED, "steps", "cfg", "sampler_name", "scheduler"),
        *("start_at_step", "end_at_step", "return_with_leftover_noise"),
    ),
    "SamplerCustom": ("add_noise", *_SEED, "cfg"),
    "RandomNoise": _SEED,
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "KarrasScheduler": ("steps", "sigma_max", "sigma_min", "rho"),
    "CFGGuider": ("cfg",),
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeSDXL": (
        *("width", "height", "crop_w", "crop_h", "target_width", "target_height"),
        *("text_g", "text_l"),
    ),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name", "weight_dtype"),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "EmptyLatentImage": ("width", "height", "batch_size"),
}
"""Widgets of ComfyUI's own nodes in their order; `control_after_generate` belongs to the editor."""


def graph_of(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """{id: {class_type, inputs}} of a workflow, or None where this is none.

    Widgets of unknown nodes are known by name where the file says the names, else a node's one text is its `text`.
    """
    nodes, links = content.get("nodes"), content.get("links")
    if not isinstance(nodes, list) or not isinstance(links, list):
        return None
    sources = {link[0]: [str(link[1]), link[2]] for link in links if isinstance(link, list) and len(link) >= 5}
    graph = {}
    for node in nodes:
        if not isinstance(node, dict) or "id" not in node or not isinstance(node.get("type"), str):
            continue
        inputs = _widgets(node)
        for each in node.get("inputs") or []:
            if isinstance(each, dict) and each.get("link") in sources:
                inputs[str(each.get("name"))] = sources[each["link"]]
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph or None


def _widgets(node: Mapping[str, Any]) -> dict[str, Any]:
    values = node.get("widgets_values")
    if isinstance(values, dict):
        return dict(values)
    if not isinstance(values, list):
        return {}
    names = _WIDGETS.get(node["type"]) or _names_in(node, len(values))
    if names:
        return dict(zip(names, values, strict=False))
    texts = [value for value in values if isinstance(value, str)]
    return {"text": texts[0]} if len(texts) == 1 else {}


def _names_in(node: Mapping[str, Any], count: int) -> list[str]:
    """The widgets' names as newer files list them; a seed is followed by a value of the editor's own."""
    names: list[str] = []
    for each in node.get("inputs") or []:
        widget = each.get("widget") if isinstance(each, dict) else None
        if isinstance(widget, dict) and isinstance(widget.get("name"), str):
            names.append(widget["name"])
            if widget["name"] in ("seed", "noise_seed"):
                names.append("control_after_generate")
    return names if len(names) == count else []
