"""The settings of a picture, each once: command line, Python, JSON schema and recipes are all read off `Request`."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Self

from conditioning.prompt.syntax import MODES
from ldm.engine.names import AUTO, ENGINES, NONE, OFFLOADS
from ldm.generation.option_entries import files_by_stem, named_values, weighted_files
from ldm.generation.sampler_names import SCHEDULE_LABELS
from ldm.generation.setting import check_setting, described, is_json, json_types, property_of, setting_of
from ldm.networks.backends import BACKENDS
from ldm.networks.backends import DEFAULT as DEFAULT_BACKEND
from ldm.samplers.table import SAMPLER_TABLE

DEFAULT_MODEL = "emoji"
SEAMLESS = ("x", "y", "xy")
"""Along which axes a picture goes on at its opposite edge."""
_SAMPLERS = [name for name, info in SAMPLER_TABLE.items() if not info.inverts]


_MODELS = "the model's"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call of the pipeline, in diffusers' words; None leaves a choice to the model.

    Light to import, and nothing but what JSON can hold: masks, the weak model and conditions are named by their files.
    """

    prompt: str | tuple[str, ...] = described("", "What to draw.")
    num_images_per_prompt: int = described(
        1,
        "Pictures per prompt; more than one also gives a grid.",
        flag="--n",
        short="-n",
        least=1,
        most=10**6,
        group="Picture",
    )
    batch_size: int | None = described(
        None,
        "Pictures that go through the network together; more changes them by rounding only.",
        otherwise="1 on CPUs, as many as fit on GPUs",
        least=1,
        most=10**6,
        group="Picture",
    )
    seed: int | None = described(
        None,
        "Of the first picture; the next has the next seed.",
        otherwise="random",
        least=0,
        most=2**64 - 1,
        group="Picture",
    )
    variation_seed: int | None = described(
        None,
        "A second seed, towards whose noise the first noise is turned; with it the seed stays for all pictures and "
        "this one counts up, as in A1111.",
        flag="--variation",
        otherwise="random",
        least=0,
        most=2**64 - 1,
        group="Picture",
    )
    variation_strength: float = described(
        0.0,
        "How far towards the noise of --variation; 0 is the seed's picture, 1 the other's.",
        least=0,
        most=1,
        group="Picture",
    )
    latents: str | None = described(
        None,
        "A file with the first noise (B or 1, C, h, w), of variance 1: .safetensors, .npy, .npz or .pt; FILE#2 begins "
        "with its third. Recipes add its hash.",
        flag="--init-latents",
        otherwise="the seed's",
        group="Picture",
    )
    num_inference_steps: int | None = described(
        None, "Denoising steps.", flag="--steps", otherwise=_MODELS, least=1, most=10_000, group="Picture"
    )
    fast: bool | None = described(
        None,
        "Draw in few steps, with a model that has weights for it.",
        otherwise="as the model says, unless steps, guidance, a sampler or a negative prompt is given",
        group="Picture",
    )
    guidance_scale: float | None = described(
        None,
        "How strongly the prompt guides; 1 is not at all.",
        flag="--cfg-scale",
        short="--cfg",
        otherwise=_MODELS,
        least=-10_000,
        most=10_000,
        group="Picture",
    )
    guidance_rescale: float | None = described(
        None,
        "How far contrast is pulled back, 0 to 1.",
        flag="--cfg-rescale",
        otherwise=_MODELS,
        least=0,
        most=1,
        group="Picture",
    )
    negative_prompt: str | tuple[str, ...] = described("", "What to stay away from.", group="Picture")
    sampler: str | None = described(
        None, f"{', '.join(_SAMPLERS)}; or another tool's name for it.", otherwise=_MODELS, group="Picture"
    )
    schedule: str | None = described(None, f"{', '.join(SCHEDULE_LABELS)}.", otherwise=_MODELS, group="Picture")
    width: int | None = described(
        None, "Of the finished picture, in pixels.", otherwise=_MODELS, least=8, most=2**16, group="Picture"
    )
    height: int | None = described(
        None, "Of the finished picture, in pixels.", otherwise=_MODELS, least=8, most=2**16, group="Picture"
    )
    tile_size: int | None = described(
        None,
        "A picture larger than this is generated in tiles of this side, in pixels of the finished picture.",
        otherwise="off",
        least=8,
        most=2**16,
        group="Larger pictures",
    )
    tile_overlap: int | None = described(
        None,
        "What neighbouring tiles share at least, in pixels.",
        otherwise="a quarter of --tile-size",
        least=0,
        most=2**16,
        group="Larger pictures",
    )
    tile_jitter: bool = described(False, "Move the borders between tiles from step to step.", group="Larger pictures")
    seamless: str | None = described(
        None,
        "A pattern to repeat: left and right edge meet (x), top and bottom (y), or all four (xy).",
        short="--tile",
        otherwise="off",
        choices=SEAMLESS,
        group="Larger pictures",
    )
    vae_memory: float | None = described(
        None,
        "GB that the autoencoder may take before it goes tile by tile.",
        otherwise="4",
        least=0,
        most=10**6,
        group="Larger pictures",
    )
    model: str = described(
        DEFAULT_MODEL, "A shipped name, a folder, a single file, a hub id, or a name of ldm models list.", group="Model"
    )
    vae: str | None = described(
        None,
        "An autoencoder: a file, a folder, a name or a hub id; TAESD is a fast one.",
        otherwise=_MODELS,
        group="Model",
    )
    upscale: bool = described(True, "Run the model's upscaler, if it has one.", group="Model")
    device: str | None = described(None, "cpu, cuda, cuda:1, mps.", otherwise="the best there is", group="Model")
    dtype: str | None = described(
        None,
        "float32, bfloat16, float16, or auto: bfloat16 where the CPU is fast at it, which changes pictures a little.",
        otherwise="float32, and float16 on GPUs of NVIDIA",
        group="Model",
    )
    attention: str = described(
        DEFAULT_BACKEND, f"{', '.join(BACKENDS)}; `ldm doctor` says which run here.", choices=BACKENDS, group="Model"
    )
    engine: str = described(
        AUTO,
        "What runs the denoising network; they differ by rounding. packed is for CPUs; openvino and onnx are faster "
        "there, and need ldm[openvino] and ldm[onnx]; cudagraphs and compiled are for GPUs of NVIDIA.",
        otherwise="packed on CPUs, else eager",
        choices=ENGINES,
        group="Model",
    )
    offload: str = described(
        NONE,
        "What waits in the computer's memory until a GPU needs it: all networks but one (model), blocks (group), "
        "single layers (sequential); slower, with the same pictures.",
        choices=OFFLOADS,
        group="Model",
    )
    clip_skip: int = described(
        0,
        "Layers of the text encoder to leave out beyond the model's own habit; negative: which layer from the last, "
        "as A1111's Clip skip and ComfyUI count (-2 is the last but one, SDXL's default).",
        least=-32,
        most=100,
        group="Prompt",
    )
    prompt_syntax: str = described(
        "a1111", "a1111, comfy, compel or plain: docs/prompts.md.", choices=MODES, group="Prompt"
    )
    prompt_2: str | tuple[str, ...] | None = described(
        None, "What SDXL's second text encoder reads.", otherwise="PROMPT", group="Prompt"
    )
    negative_prompt_2: str | tuple[str, ...] | None = described(
        None, "Likewise, to stay away from.", otherwise="--negative-prompt", group="Prompt"
    )
    wildcards: str | None = described(None, "Folder whose NAME.txt fills __NAME__ in prompts.", group="Prompt")
    guidance_options: Mapping[str, Any] = described(
        dict,
        "NAME=VALUE, e.g. pag_scale=3: docs/guidance.md",
        flag="--guidance",
        read=named_values,
        merged=True,
        group="Methods",
    )
    cache_options: Mapping[str, Any] = described(
        dict,
        "NAME=VALUE, e.g. deepcache=3, faster and a little off: docs/performance.md",
        flag="--cache",
        read=named_values,
        merged=True,
        group="Methods",
    )
    token_merging: float = described(
        0.0,
        "The share of tokens that self-attention takes together, faster and a little off: docs/performance.md",
        least=0,
        most=0.75,  # of every 2 x 2 one remains
        group="Methods",
    )
    sampler_options: Mapping[str, Any] = described(
        dict, "NAME=VALUE, e.g. eta=0.5", flag="--sampler-option", read=named_values, merged=True, group="Methods"
    )
    schedule_options: Mapping[str, Any] = described(
        dict, "NAME=VALUE, e.g. rho=5", flag="--schedule-option", read=named_values, merged=True, group="Methods"
    )
    weak_model: str = described(
        "", "The worse model of --guidance autoguidance_scale=2; named as --model is.", group="Model"
    )
    loras: Mapping[str, Any] = described(dict, "FILE or FILE=WEIGHT", flag="--lora", read=weighted_files, group="Model")
    allow_unmatched: bool = described(False, "Leave out layers of a LoRA that this model does not have.", group="Model")
    embeddings: Mapping[str, str] = described(
        dict, "Textual inversion FILE", flag="--embedding", read=files_by_stem, group="Model"
    )
    regions: Mapping[str, str] = described(
        dict, "MASK.png=PROMPT, which holds where the mask is white", flag="--region", read=named_values, group="Prompt"
    )
    conditions: Mapping[str, Any] = described(dict, "Sizes and scores that SDXL and its refiner are conditioned on.")
    task: Mapping[str, Any] = described(dict, "What is done with a picture that is put in, and which: docs/tasks.md.")
    prediction_type: str | None = described(
        None,
        "epsilon or v_prediction, where a single file does not say it, or says it wrong.",
        flag="--prediction",
        group="Single files",
    )
    zero_terminal_snr: bool | None = described(
        None, "Of a single file that begins at pure noise and does not say so.", group="Single files"
    )
    family: str | None = described(
        None, "Of a single file: sd1, sd2, sdxl, ..., where it is taken for something else.", group="Single files"
    )
    ema: bool = described(False, "Of a single file with two sets of weights take the average.", group="Single files")

    @property
    def prompts(self) -> list[str]:
        """The prompts, one or several, as a list."""
        return [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)

    @property
    def load_options(self) -> dict[str, Any]:
        """The options of a single file, by the parameters of `LatentDiffusion.from_single_file`."""
        names = ("prediction_type", "zero_terminal_snr", "family", "ema")
        return {name: getattr(self, name) for name in names if getattr(self, name) not in (None, False)}

    def values(self) -> dict[str, Any]:
        """The fields of `Request` by name, also of a `Recipe`, which has more."""
        return {each.name: getattr(self, each.name) for each in fields(Request)}

    def changed(self, given: Mapping[str, Any]) -> Self:
        """The request with what was given in place of its own; entries of options join its own."""
        changes = dict(given)
        for each in fields(Request):
            if each.name in changes and setting_of(each).merged:
                changes[each.name] = {**getattr(self, each.name), **changes[each.name]}
        if self.upscale != changes.get("upscale", self.upscale):
            # A size is that of the finished picture: it means something else without the upscaler.
            changes = dict.fromkeys(("width", "height", "tile_size", "tile_overlap")) | changes
        return replace(self, **changes)

    def check(self, options: bool = False) -> None:
        """Refuse, before the seconds that loading a model takes, what no model could draw.

        Args:
            options: name the fields as options of the command line, not as keywords of Python.

        Raises:
            ValueError: names the field, its value and what it may be.
        """
        for each in fields(Request):
            check_setting(each, getattr(self, each.name), options)

    @classmethod
    def from_content(cls, content: Any, where: str) -> Self:
        """The request in a JSON object; fields that it lacks have their defaults.

        Args:
            content: as `json.loads` gives it.
            where: it stands, for messages.

        Raises:
            ValueError: names the field that is unknown, missing or of another type.
        """
        if not isinstance(content, dict):
            raise ValueError(f"{where} is {type(content).__name__}, not an object")
        known = {each.name: each for each in fields(cls)}
        for name, each in known.items():
            if name not in content and each.default is MISSING and each.default_factory is MISSING:
                raise ValueError(f"{where} lacks {name!r}")
        for name, value in content.items():
            if name not in known:
                raise ValueError(f"{where} has the unknown field {name!r}; a newer version may have written it")
            kinds = json_types(known[name].type)
            if not any(is_json(value, kind) for kind in kinds):
                raise ValueError(f"{where} has {name}={value!r} where {' or '.join(kinds)} belongs")
        values: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in content.items()}
        return cls(**values)


def request_schema() -> dict[str, Any]:
    """JSON schema of `Request`: names, types, help, defaults and ranges."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Request",
        "description": "One call of the pipeline; null leaves a choice to the model.",
        "type": "object",
        "properties": {each.name: property_of(each) for each in fields(Request)},
        "additionalProperties": False,
    }
