"""ComfyUI's graphs: which texts, seed and steps reach the sampler.

A graph in the API's form is {id: {class_type, inputs}}; an input [id, slot] is another node's output. Nodes are known
by the names of their inputs rather than by their class, because most graphs hold nodes of extensions.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from conditioning.prompt.two_texts import text_of, two_texts
from ldm.io.metadata.comfyui_workflow import graph_of
from ldm.io.metadata.foreign import Fields, ForeignRecipe

Node = Mapping[str, Any]

_FIELDS: Fields = {
    "seed": ("seed", int),
    "noise_seed": ("seed", int),
    "steps": ("num_inference_steps", int),
    "cfg": ("guidance_scale", float),
    "sampler_name": ("sampler", str),
    "scheduler": ("schedule", str),
}
_WITHOUT_EFFECT = {
    "denoise": 1.0,
    "add_noise": ("enable", True),
    "start_at_step": 0,
    "return_with_leftover_noise": "disable",
    "control_after_generate": None,
}
_SILENT = ("end_at_step", "preview_method", "vae_decode", "control_after_generate")
_FOLLOWED = ("positive", "negative", "latent_image", "latent", "model", "noise", "guider", "sampler", "sigmas", "vae")
_TEXT_INPUTS = ("text", "text_g", "text_l", "clip_l", "t5xxl", "prompt", "string", "value", "text_positive")
_SEPARATORS = ("delimiter", "separator")
_TEXT_NAME = re.compile(r"(?i)text|string|prompt|value")
_SAMPLER_CLASSES = {
    "SamplerEulerAncestral": "euler_ancestral",
    "SamplerDPMPP_2M_SDE": "dpmpp_2m_sde",
    "SamplerDPMPP_3M_SDE": "dpmpp_3m_sde",
    "SamplerDPMPP_SDE": "dpmpp_sde",
    "SamplerDPMPP_2S_Ancestral": "dpmpp_2s_ancestral",
    "SamplerLMS": "lms",
    "SamplerDPMAdaptative": "dpm_adaptive",
    "SamplerER_SDE": "er_sde",
}
_SCHEDULE_CLASSES = {
    "KarrasScheduler": "karras",
    "ExponentialScheduler": "exponential",
    "PolyexponentialScheduler": "polyexponential",
    "BetaSamplingScheduler": "beta",
    "AlignYourStepsScheduler": "align_your_steps",
    "GITSScheduler": "gits",
    "SDTurboScheduler": "trailing",
}
_MOST_VISITS = 20_000


class Graph:
    """Nodes by their id, with an end to following links: graphs may hold loops, and diamonds upon diamonds."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.nodes: dict[str, Node] = {
            str(key): node
            for key, node in content.items()
            if isinstance(node, dict)
            and isinstance(node.get("inputs"), dict)
            and isinstance(node.get("class_type"), str)
        }
        self._visits = 0

    def source(self, link: Any) -> Node | None:
        """The node that a link comes from."""
        if not _is_link(link) or self._visits >= _MOST_VISITS:
            return None
        self._visits += 1
        return self.nodes.get(str(link[0]))

    def upstream(self, link: Any) -> Iterator[Node]:
        """The node that a link comes from, then those that feed it, nearest first; each once."""
        waiting, seen = [link], set()
        for each in waiting:
            if not _is_link(each) or str(each[0]) in seen:
                continue
            seen.add(str(each[0]))
            if (node := self.nodes.get(str(each[0]))) is not None:
                yield node
                waiting += node["inputs"].values()

    def source_name(self, link: Any) -> str:
        """The class of the node that a link comes from, for people."""
        node = self.source(link)
        return "a missing node" if node is None else str(node["class_type"])


def read_workflow(content: dict[str, Any]) -> ForeignRecipe | None:
    """`workflow`: the editor's own form of a graph."""
    graph = graph_of(content)
    return None if graph is None else read_graph(graph)


def read_graph(content: Mapping[str, Any]) -> ForeignRecipe | None:
    """`prompt`: the API's form of a graph. What cannot be followed is among what is not used, by name."""
    graph = Graph(content)
    if not graph.nodes:
        return None
    recipe = ForeignRecipe("ComfyUI")
    samplers = [node for node in graph.nodes.values() if _is_sampler(node)]
    if not samplers:
        classes = ", ".join(sorted({str(node["class_type"]) for node in graph.nodes.values()}))
        recipe.unused["workflow"] = f"no sampler among its nodes ({classes})"
        texts = [text for node in graph.nodes.values() if _encodes(node) for text in _encoded(graph, node)]
        recipe.values.update({"prompt": texts[0]} if texts else {})
        return recipe
    first = next((node for node in samplers if not _works_on_another(graph, node)), samplers[0])
    if len(samplers) > 1:
        recipe.unused["samplers"] = f"{len(samplers)} in the workflow; the first one is read"
    _read_sampler(recipe, graph, first)
    return recipe


def _is_sampler(node: Node) -> bool:
    inputs = node["inputs"]
    return ("steps" in inputs and "positive" in inputs) or (
        "sigmas" in inputs and ("guider" in inputs or "positive" in inputs)
    )


def _works_on_another(graph: Graph, sampler: Node) -> bool:
    """Whether a sampler begins with the latents of another one."""
    inputs = sampler["inputs"]
    latents = inputs.get("latent_image", inputs.get("latent"))
    return any(_is_sampler(node) for node in graph.upstream(latents))


def _read_sampler(recipe: ForeignRecipe, graph: Graph, node: Node) -> None:
    inputs = dict(node["inputs"])
    for part in ("noise", "guider", "sampler", "sigmas"):  # SamplerCustom and SamplerCustomAdvanced
        _take_part(recipe, graph, part, inputs)
    for name, value in inputs.items():
        harmless = _WITHOUT_EFFECT.get(name)
        if name in (*_FOLLOWED, *_SILENT) or (
            harmless is not None and (value == harmless or value in _listed(harmless))
        ):
            continue
        found = _number_or_word(graph, value, name)
        if found is None:
            recipe.unused[name] = f"comes from {graph.source_name(value)}, which cannot be followed"
        elif not _is_link(found):
            recipe.keep(name, found, _FIELDS)
    for name, role in (("positive", "prompt"), ("negative", "negative_prompt")):
        if name in inputs:
            _read_texts(recipe, graph, inputs[name], name, role)
    _read_latent(recipe, graph, inputs.get("latent_image", inputs.get("latent")))
    _read_model(recipe, [*graph.upstream(inputs.get("model")), *graph.upstream(inputs.get("positive"))])


def _listed(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else ()


def _take_part(recipe: ForeignRecipe, graph: Graph, part: str, inputs: dict[str, Any]) -> None:
    """Put what a node for noise, guidance, sampler or noise levels says among the sampler's own inputs."""
    link = inputs.get(part)
    if not _is_link(link):
        return
    nodes = list(graph.upstream(link))
    if not nodes:
        recipe.unused[part] = "its node is missing"
        return
    wanted = {
        "noise": ("noise_seed", "seed"),
        "sampler": ("sampler_name",),
        "sigmas": ("steps", "scheduler", "denoise"),
    }
    if part == "guider":
        inputs.update({name: value for name, value in nodes[0]["inputs"].items() if name not in ("vae",)})
        inputs.setdefault("positive", inputs.pop("conditioning", None))
        inputs.setdefault("cfg", 1.0)  # BasicGuider: the prompt alone
        return
    for name in wanted[part]:
        holder = next((node for node in nodes if name in node["inputs"]), None)
        if holder is not None:
            inputs.setdefault(name, holder["inputs"][name])
    by_class = {"sampler": (_SAMPLER_CLASSES, "sampler_name"), "sigmas": (_SCHEDULE_CLASSES, "scheduler")}
    if part in by_class:
        classes, name = by_class[part]
        named = next((classes[node["class_type"]] for node in nodes if node["class_type"] in classes), None)
        if named and name not in inputs:
            inputs[name] = named
        elif name not in inputs:
            recipe.unused[part] = f"{nodes[0]['class_type']} is not known"


def _read_texts(recipe: ForeignRecipe, graph: Graph, link: Any, name: str, role: str) -> None:
    texts: list[str] = []
    lost: list[str] = []
    _conditioning_texts(graph, link, name, texts, lost)
    if texts:
        first, second = text_of(texts[0], 0), text_of(texts[0], 1)
        recipe.values.update({role: first} if second == first else {role: first, f"{role}_2": second})
    others = list(dict.fromkeys(text for text in texts[1:] if text != texts[0]))
    if others:
        recipe.unused[name] = f"{len(others) + 1} texts are joined; the first one is read, not {others[0]!r}"
    elif lost and not texts:
        recipe.unused[name] = f"comes from {lost[0]}, which cannot be followed"


def _conditioning_texts(graph: Graph, link: Any, name: str, texts: list[str], lost: list[str]) -> None:
    """Collect the texts that become a conditioning; name: which of two outputs a node with both has to follow."""
    node = graph.source(link)
    if node is None:
        return
    inputs = node["inputs"]
    if "ZeroOut" in node["class_type"]:
        texts.append("")
    elif _encodes(node):
        found = _encoded(graph, node)
        if not found:
            lost.append(graph.source_name(next(inputs[field] for field in _TEXT_INPUTS if field in inputs)))
        texts += dict.fromkeys(found)
    elif isinstance(inputs.get(name), str):  # loaders that hold both prompts
        texts.append(inputs[name])
    else:
        both = "positive" in inputs and "negative" in inputs
        following = ("positive", "negative")[link[1]] if both and link[1] in (0, 1) else name
        links = (
            [inputs[following]] if both else [value for field, value in inputs.items() if _carries(graph, field, value)]
        )
        if not links:
            lost.append(str(node["class_type"]))
        for each in links:
            _conditioning_texts(graph, each, name, texts, lost)


def _encodes(node: Node) -> bool:
    inputs = node["inputs"]
    return "clip" in inputs and any(name in inputs for name in _TEXT_INPUTS)


def _carries(graph: Graph, name: str, value: Any) -> bool:
    """Whether an input may lead to a conditioning: others lead to models, pictures and masks."""
    not_these = (
        "model",
        "clip",
        "vae",
        "image",
        "mask",
        "control_net",
        "latent",
        "pixels",
        "samples",
        "clip_vision_output",
    )
    return _is_link(value) and name not in not_these


def _encoded(graph: Graph, node: Node) -> list[str]:
    """The texts that an encoder encodes, one for each tower; those of SDXL's two towers as one."""
    texts = [_string(graph, node["inputs"].get(name)) for name in ("text_l", "text_g")]
    if texts[0] is not None and texts[1] is not None:
        return [two_texts(texts[0], texts[1])]
    return [text for name in _TEXT_INPUTS if (text := _string(graph, node["inputs"].get(name))) is not None]


def _string(graph: Graph, value: Any) -> str | None:
    """A text, or the text of the node that an input comes from, also where nodes join several."""
    if isinstance(value, str):
        return value
    node = graph.source(value)
    if node is None:
        return None
    inputs = node["inputs"]
    separator = next((inputs[name] for name in _SEPARATORS if isinstance(inputs.get(name), str)), "")
    fields = [name for name in inputs if _TEXT_NAME.search(name) and name not in _SEPARATORS]
    fields = fields or [name for name in inputs if isinstance(inputs[name], str) or _is_link(inputs[name])]
    parts = [text for name in fields if (text := _string(graph, inputs[name])) is not None]
    if not parts:
        return None
    joins = bool(re.search(r"(?i)concat|join|combine|append", node["class_type"]))
    return separator.join(parts) if joins else parts[0]


def _number_or_word(graph: Graph, value: Any, name: str) -> Any:
    """A value, or that of the node it comes from: of the same name there, or the only one there is."""
    if not _is_link(value):
        return value
    node = graph.source(value)
    if node is None:
        return None
    inputs = node["inputs"]
    plain = [each for each in inputs.values() if isinstance(each, int | float | str) and not isinstance(each, bool)]
    for field in (name, "value", "seed", "number", "int", "float"):
        if field in inputs:
            return _number_or_word(graph, inputs[field], name)
    return plain[0] if len(plain) == 1 else None


def _read_latent(recipe: ForeignRecipe, graph: Graph, link: Any) -> None:
    nodes = list(graph.upstream(link))
    for node in nodes:
        width, height = (_number_or_word(graph, node["inputs"].get(name), name) for name in ("width", "height"))
        if isinstance(width, int) and isinstance(height, int):
            recipe.values.update(width=width, height=height)
            return
    if nodes:
        recipe.unused["latent_image"] = str(nodes[0]["class_type"])


def _read_model(recipe: ForeignRecipe, nodes: list[Node]) -> None:
    loras: dict[str, None] = {}
    for node in nodes:
        inputs = node["inputs"]
        for name in ("ckpt_name", "unet_name", "base_ckpt_name", "model_name"):
            if isinstance(inputs.get(name), str):
                recipe.values.setdefault("model", inputs[name])
        if isinstance(inputs.get("stop_at_clip_layer"), int):
            recipe.values["clip_skip"] = inputs["stop_at_clip_layer"]
        if isinstance(inputs.get("lora_name"), str) and inputs["lora_name"] != "None":
            loras[f"{inputs['lora_name']} at {inputs.get('strength_model', 1.0)}"] = None
        for each in inputs.values():  # rgthree's loader of several
            if isinstance(each, dict) and isinstance(each.get("lora"), str) and each.get("on", True):
                loras[f"{each['lora']} at {each.get('strength', 1.0)}"] = None
        if "control_net" in inputs:
            recipe.unused["ControlNet"] = str(node["class_type"])
    if loras:
        recipe.unused["lora"] = ", ".join(loras)


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int) and isinstance(value[1], int)
