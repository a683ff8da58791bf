"""A model as a folder in the Hugging Face layout, which `diffusers.StableDiffusionPipeline` opens too."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from autoencoder.export import save_autoencoder
from autoencoder.kl import KLAutoencoder
from autoencoder.latent_format import LatentFormat
from conditioning.clip_text import ClipText
from ldm.io.files import ModelFileError, find_weights, read_json, read_weights, write_folder, write_json
from ldm.io.scheduler import scheduler_fields, scheduler_settings
from ldm.io.translate import DIFFUSERS_VERSION, autoencoder_config, modern_autoencoder_name, unet_config, unet_fields
from ldm.process import Process
from ldm.unet import UNet
from ldm.upscaler.model import Upscaler

_TEXT_TO_IMAGE = "StableDiffusionPipeline"
_INPAINTING = "StableDiffusionInpaintPipeline"
_OURS = "LatentDiffusion"  # other inputs than text and masks: diffusers has no pipeline for it and says so
_STEM = "diffusion_pytorch_model"
_DEFAULTS_FILE = "ldm.json"

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Defaults:
    """How a model is used unless someone asks otherwise.

    width, height: of the picture that the denoiser draws, in pixels, before any upscaler.
    """

    width: int
    height: int
    num_inference_steps: int = 25
    guidance_scale: float = 7.5
    guidance_rescale: float = 0.0
    sampler: str = "ddim"
    schedule: str = "trailing"


@dataclass(frozen=True)
class ModelParts:
    """A whole model. `text` is None for one that is conditioned on class labels or on nothing."""

    text: ClipText | None
    unet: UNet
    autoencoder: KLAutoencoder
    latent_format: LatentFormat
    process: Process
    prediction_type: str
    defaults: Defaults
    upscaler: Upscaler | None = None


def load_folder(path: Path, dtype: torch.dtype = torch.float32) -> ModelParts:
    """Read a model folder; all networks come in eval mode, without gradients, on the CPU.

    dtype: of text encoder, U-Net and upscaler, and of the autoencoder, which stays fp32 where `dtype` is fp16: its
    activations leave the range of fp16.

    Raises ModelFileError (an OSError) for anything missing, damaged or unsupported, naming the file and the field.
    """
    index = read_json(path / "model_index.json")
    kind = index.get("_class_name")
    if kind not in (_TEXT_TO_IMAGE, _OURS):
        raise ModelFileError(
            f"{path / 'model_index.json'}: _class_name={kind!r} is not supported; only {_TEXT_TO_IMAGE} is"
        )
    autoencoder, latent_format = load_autoencoder(path, torch.float32 if dtype == torch.float16 else dtype)
    unet, size = _load_unet(path, dtype)
    text = load_text(path, dtype) if kind == _TEXT_TO_IMAGE or (path / "text_encoder").is_dir() else None
    _check_fit(path, unet, latent_format, text)
    settings_path = path / "scheduler" / "scheduler_config.json"
    settings = scheduler_settings(read_json(settings_path), str(settings_path))
    height, width = (cells * latent_format.factor for cells in size or (64, 64))
    return ModelParts(
        text=text,
        unet=unet,
        autoencoder=autoencoder,
        latent_format=latent_format,
        process=settings.process,
        prediction_type=settings.prediction_type,
        defaults=Defaults(width, height, **_own_defaults(path), sampler=settings.sampler, schedule=settings.schedule),
        upscaler=Upscaler.from_folder(path / "upscaler", dtype) if (path / "upscaler").is_dir() else None,
    )


def save_folder(parts: ModelParts, path: Path, dtype: torch.dtype | None = None) -> None:
    """Write a model folder, atomically; `diffusers.StableDiffusionPipeline.from_pretrained` opens it.

    A U-Net with a mask and a masked picture beside the latent is written for `StableDiffusionInpaintPipeline`.

    dtype: of all weights in the files; None keeps what each network has.

    Raises ValueError for what such a folder cannot hold (a latent format with more than a scale, a flow process).
    """
    latent_format, defaults = parts.latent_format, parts.defaults
    for name in ("shift", "mean", "std"):
        if getattr(latent_format, name):
            raise ValueError(
                f"latent_format.{name}={getattr(latent_format, name)} would be ignored by Stable Diffusion pipelines; "
                "fold it into the autoencoder with fold_whitening"
            )
    scheduler = scheduler_fields(parts.process, parts.prediction_type, defaults.sampler, defaults.schedule)
    size = defaults.height // latent_format.factor, defaults.width // latent_format.factor
    unet = unet_fields(parts.unet.config, size)
    with write_folder(path) as folder:
        write_json(folder / "unet" / "config.json", unet)
        save_file(_state(parts.unet, dtype), folder / "unet" / f"{_STEM}.safetensors", metadata={"format": "pt"})
        save_autoencoder(
            parts.autoencoder, folder / "vae", latent_format.scale, dtype or next(parts.autoencoder.parameters()).dtype
        )
        write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
        if parts.text is not None:
            text = parts.text if dtype is None else copy.deepcopy(parts.text).to(dtype)
            text.save(folder / "tokenizer", folder / "text_encoder")
        if parts.upscaler is not None:
            parts.upscaler.save(folder / "upscaler", dtype or next(parts.upscaler.parameters()).dtype)
        own = {name: getattr(defaults, name) for name in _OWN_FIELDS}
        write_json(folder / _DEFAULTS_FILE, own)
        write_json(folder / "model_index.json", _index(scheduler["_class_name"], parts))


def load_unet(path: Path, dtype: torch.dtype = torch.float32) -> UNet:
    """The U-Net of a model folder, or of a `unet` folder itself. Raises ModelFileError."""
    return _load_unet(path, dtype)[0]


def load_autoencoder(path: Path, dtype: torch.dtype = torch.float32) -> tuple[KLAutoencoder, LatentFormat]:
    """The autoencoder of a model folder, or of a `vae` folder itself, with its latent format. Raises ModelFileError."""
    folder = _part(path, "vae")
    config, latent_format = autoencoder_config(read_json(folder / "config.json"), str(folder / "config.json"))
    weights = {modern_autoencoder_name(name): value for name, value in read_weights(folder, _STEM).items()}
    return _fill(lambda: KLAutoencoder(config), weights, folder, dtype), latent_format


def load_text(path: Path, dtype: torch.dtype = torch.float32) -> ClipText:
    """The text encoder of a folder with `tokenizer` and `text_encoder` inside. Raises ModelFileError."""
    read_json(path / "text_encoder" / "config.json")
    find_weights(path / "text_encoder", "model")
    try:
        return ClipText.from_folder(path / "tokenizer", path / "text_encoder", dtype)
    except ValueError as error:
        raise ModelFileError(str(error)) from None


def _load_unet(path: Path, dtype: torch.dtype) -> tuple[UNet, tuple[int, int] | None]:
    folder = _part(path, "unet")
    config, size = unet_config(read_json(folder / "config.json"), str(folder / "config.json"))
    return _fill(lambda: UNet(config), read_weights(folder, _STEM), folder, dtype), size


def _part(path: Path, name: str) -> Path:
    return path if (path / "config.json").is_file() and not (path / name).is_dir() else path / name


def _fill(build: Callable[[], Network], weights: dict[str, Tensor], folder: Path, dtype: torch.dtype) -> Network:
    """The network that `build` makes, with `weights` in place of its random ones, which are never drawn."""
    with torch.device("meta"):
        network = build()
    wanted = network.state_dict()
    for name, value in wanted.items():
        if name not in weights:
            raise ModelFileError(f"{folder}: the weights lack {name}; they do not belong to its config.json")
        if weights[name].shape != value.shape:
            found, right = tuple(weights[name].shape), tuple(value.shape)
            raise ModelFileError(f"{folder}: {name} is {found} where its config.json asks for {right}")
    if extra := sorted(weights.keys() - wanted.keys()):
        raise ModelFileError(f"{folder}: its config.json has no place for {extra[0]} and {len(extra) - 1} more weights")
    network.load_state_dict({name: value.to(dtype) for name, value in weights.items()}, assign=True)
    return network.eval().requires_grad_(False)


def _state(network: nn.Module, dtype: torch.dtype | None) -> dict[str, Tensor]:
    return {
        name: value.detach().to("cpu", dtype or value.dtype).contiguous(memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }


def _check_fit(path: Path, unet: UNet, latent_format: LatentFormat, text: ClipText | None) -> None:
    config, file = unet.config, path / "unet" / "config.json"
    for name in ("in_channels", "out_channels"):
        if getattr(config, name) != latent_format.channels:
            raise ModelFileError(
                f"{file}: {name}={getattr(config, name)}, but the vae has {latent_format.channels} channels"
            )
    if text is not None and config.context_dim not in (None, text.width):
        raise ModelFileError(
            f"{file}: cross_attention_dim={config.context_dim}, but the text encoder's width is {text.width}"
        )


_OWN_FIELDS: dict[str, type] = {"num_inference_steps": int, "guidance_scale": float, "guidance_rescale": float}


def _own_defaults(path: Path) -> dict[str, Any]:
    """What diffusers has no file for: our `ldm.json`, absent from folders that others wrote."""
    file = path / _DEFAULTS_FILE
    if not file.exists():
        return {}
    content = read_json(file)
    for name, value in content.items():
        wanted = _OWN_FIELDS.get(name)
        if wanted is None:
            raise ModelFileError(f"{file}: {name} is unknown to this version; known: {', '.join(_OWN_FIELDS)}")
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise ModelFileError(f"{file}: {name}={value!r} is not a {wanted.__name__}")
    return content


def _pipeline(parts: ModelParts) -> str:
    """diffusers' pipeline for the network's inputs."""
    unet, channels = parts.unet.config, parts.latent_format.channels
    if parts.text is None or unet.pooled_dim is not None or unet.num_classes is not None:
        return _OURS
    return {channels: _TEXT_TO_IMAGE, 2 * channels + 1: _INPAINTING}.get(unet.in_channels, _OURS)


def _index(scheduler: str, parts: ModelParts) -> dict[str, Any]:
    index: dict[str, Any] = {
        "_class_name": _pipeline(parts),
        "_diffusers_version": DIFFUSERS_VERSION,
        "scheduler": ["diffusers", scheduler],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if parts.text is not None:
        index |= {
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "feature_extractor": [None, None],
            "safety_checker": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
        }
    return index
