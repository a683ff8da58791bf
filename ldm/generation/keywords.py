"""Unknown keywords: the error names the nearest one, or where diffusers' and A1111's words are here."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar, get_args

from ldm.naming import nearest

P = ParamSpec("P")
T = TypeVar("T")

_PICTURE = "a picture is put in with model.img2img(prompt, image), model.inpaint or model.outpaint"
_VALUES = "write schedule={0!r} and schedule_options={{'values': [...]}}"
_ELSEWHERE = {
    "torch_dtype": "it is dtype here",
    "scheduler": "it is sampler here, of a call: a name, a function or a scheduler of diffusers",
    "sampler_name": "it is sampler here",
    "solver": "it is sampler here",
    "safety_checker": "there is none, so it need not be switched off",
    "requires_safety_checker": "there is no safety checker",
    "feature_extractor": "there is no safety checker that would need one",
    "guidance": "it is guidance_scale, and guidance_options for all else",
    "cfg": "it is guidance_scale here",
    "cfg_scale": "it is guidance_scale here",
    "steps": "it is num_inference_steps here",
    "num_steps": "it is num_inference_steps here",
    "n": "it is num_images_per_prompt here",
    "eta": "write sampler_options={'eta': ...}",
    "timesteps": _VALUES.format("timesteps"),
    "sigmas": _VALUES.format("sigmas"),
    "pag_scale": "write guidance_options={'pag_scale': ...}",
    "cache_interval": "write cache_options={'deepcache': ...}",
    "tome_ratio": "it is token_merging here",
    "cross_attention_kwargs": "a LoRA's weight is <lora:name:0.8> in the prompt, own attention is attention_hook",
    "attention_processor": "it is attention_hook here",
    "callback_steps": "callback is called after every step",
    "callback_on_step_end_tensor_inputs": "callback_on_step_end always gets the latents",
    "return_dict": "a call always gives a Result",
    "show_progress": "it is progress_bar here",
    "image": _PICTURE,
    "init_image": f"{_PICTURE}; there it is image",
    "mask_image": "masks belong to model.inpaint(prompt, image, mask_image)",
    "mask": "masks belong to model.inpaint(prompt, image, mask_image)",
    "strength": _PICTURE,
    "denoising_strength": "it is strength, of model.img2img(prompt, image, strength=...)",
    "padding_mask_crop": "it is crop, of model.inpaint(prompt, image, mask_image, crop=...)",
    "depth_map": "it is depth, of model.img2img(prompt, image, depth=...)",
    "original_size": "write conditions=ExtraConditioning(original_size=...)",
    "target_size": "write conditions=ExtraConditioning(target_size=...)",
    "crops_coords_top_left": "write conditions=ExtraConditioning(crops_coords_top_left=...)",
    "aesthetic_score": "write conditions=ExtraConditioning(aesthetic_score=...)",
    "ip_adapter_image": "IP-Adapter is not here",
    "lora": "call model.load_lora(file) first",
    "use_safetensors": "only safetensors are read",
    "local_files_only": "only a hub id goes online; set HF_HUB_OFFLINE=1 to forbid that too",
    "cache_dir": "set HF_HOME",
    "token": "set HF_TOKEN",
    "device_map": "it is device here",
    "low_cpu_mem_usage": "files are mapped, not copied; mmap=False copies them",
    "unet": "from_pretrained reads all parts from one folder; LatentDiffusion(replace(model.parts, ...)) has others",
    "text_encoder": "from_pretrained reads all parts from one folder",
    "tokenizer": "from_pretrained reads all parts from one folder",
    "subfolder": "name the model's own folder",
}


def _unpacked(annotation: Any) -> list[str]:
    """The keywords in `**options: Unpack[SomeTypedDict]`."""
    return [name for typed in get_args(annotation) for name in typed.__annotations__]


def explain_keywords(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function say of an unknown keyword which one was meant."""
    known = [
        name
        for each in inspect.signature(function).parameters.values()
        for name in (_unpacked(each.annotation) if each.kind is inspect.Parameter.VAR_KEYWORD else [each.name])
        if name not in ("self", "cls")
    ]

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        for name in kwargs:
            if name not in known:
                raise TypeError(f"unknown keyword {name!r}; {_ELSEWHERE.get(name) or nearest(name, known)}")
        return function(*args, **kwargs)

    return checked
