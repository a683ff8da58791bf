"""A model as a folder in the Hugging Face layout, which diffusers' pipelines open too."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from autoencoder.build import Autoencoder
from autoencoder.latent_format import LatentFormat
from autoencoder.tiny import TinyAutoencoder
from conditioning.clip.pair import ClipTextEncoder
from ldm.families.kinds import UPSCALING, kind_of
from ldm.families.parts import Defaults, LowResolution, ModelParts
from ldm.io.disk.files import ModelFileError, has_variant, read_json, write_folder, write_json
from ldm.io.folder.autoencoder import autoencoder_config, load_autoencoder, save_autoencoder
from ldm.io.folder.config_fields import DIFFUSERS_VERSION
from ldm.io.folder.denoising_errors import load_errors, save_errors
from ldm.io.folder.few_steps import load_few_steps, save_few_steps
from ldm.io.folder.field_types import DEFAULTS_TYPES, INDEX_TYPES, check_types
from ldm.io.folder.folder_weights import STEM, folder_weights, part_of, write_network
from ldm.io.folder.pipelines import (
    KNOWN,
    OURS,
    is_xl,
    optional_parts,
    pipeline_class,
    usual_guidance_scale,
    usual_latent_format,
    with_usual_preview,
)
from ldm.io.folder.scheduler import scheduler_fields, scheduler_settings
from ldm.io.folder.scheduler.classes import TABLE_DEFAULTS
from ldm.io.folder.text_encoder import (
    PLACES,
    class_name,
    load_text_encoder,
    save_text_encoder,
    tokenizer_of,
    towers_by_folder,
)
from ldm.io.folder.unet import unet_config, unet_fields
from ldm.io.folder.upscaler import load_upscaler, save_upscaler
from ldm.io.tensors.load_weights import load_weights
from ldm.io.vae import StoredAutoencoder
from ldm.networks.unet import UNet, UNetConfig

_DEFAULTS_FILE = "ldm.json"
_PREVIEW = "preview"
_WORDS_FILE = "words.txt"


def load_folder(
    path: Path,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
    vae: StoredAutoencoder | None = None,
) -> ModelParts:
    """Read a model folder; all networks come in eval mode, without gradients, on the CPU.

    Weights that are in `dtype` already are mapped from their files, others are converted one by one.

    dtype: of text encoder, U-Net and upscaler, and of the autoencoder, which stays fp32 where `dtype` is fp16: its
    activations leave the range of fp16. variant: e.g. `fp16`, which files to take where a part has them. vae: in place
    of the folder's own, which may be missing then.

    Raises ModelFileError (an OSError) for anything missing, damaged or unsupported, naming the file and the field.
    """
    file = path / "model_index.json"
    index = read_json(file)
    if index.get("_class_name") not in KNOWN:
        raise ModelFileError(f"{file}: _class_name={index.get('_class_name')!r} is not supported; only {_known()} are")
    check_types(index, INDEX_TYPES, str(file))
    if variant is not None and not has_variant(path, variant):
        raise ModelFileError(f"{path} has no weights of variant={variant!r}; leave the variant out")
    unet, size = _load_unet(path, dtype, variant)
    autoencoder, latent_format = _load_autoencoder(path, dtype, variant, vae, unet.config)
    text = None
    if index["_class_name"] != OURS:
        text = load_text_encoder(path, _tower_classes(index, file), dtype, is_xl(unet.config), variant)
    _check_fit(path, unet, latent_format, text)
    settings_path = path / "scheduler" / "scheduler_config.json"
    settings = scheduler_settings(read_json(settings_path), str(settings_path))
    height, width = (cells * latent_format.factor for cells in size or (64, 64))
    own = {"guidance_scale": usual_guidance_scale(unet.config), **_own_defaults(path)}
    latent_format = with_usual_preview(latent_format, unet.config)
    if preview := own.pop(_PREVIEW, None):
        latent_format = _with_preview(path, latent_format, preview)
    return ModelParts(
        text=text,
        unet=unet,
        autoencoder=autoencoder,
        latent_format=latent_format,
        process=settings.process,
        prediction_type=settings.prediction_type,
        defaults=Defaults(
            width,
            height,
            **own,
            sampler=settings.sampler,
            schedule=settings.schedule,
            sampler_options=settings.sampler_options,
            schedule_options=settings.schedule_options,
        ),
        upscaler=load_upscaler(path / "upscaler", dtype) if (path / "upscaler").is_dir() else None,
        zeros_for_empty=is_xl(unet.config) and index.get("force_zeros_for_empty_prompt", True),
        low_resolution=_low_resolution(path, index) if kind_of(unet) == UPSCALING else None,
        words=words_in(path),
        few_steps=load_few_steps(path),
        errors=load_errors(path),
    )


def save_folder(parts: ModelParts, path: Path, dtype: torch.dtype | None = None) -> None:
    """Write a model folder, atomically and tensor by tensor; diffusers' pipeline of such a model opens it.

    A depth estimator is no part of a model here: `StableDiffusionDepth2ImgPipeline.from_pretrained` must be given
    `depth_estimator` and `feature_extractor`, which may be None for calls that bring a depth map.

    dtype: of all weights in the files; None keeps what each network has.

    Raises ValueError for what such a folder cannot hold (a latent format that the pipeline would ignore, a sampler or
    schedule that diffusers has no words for).
    """
    latent_format, defaults, config = parts.latent_format, parts.defaults, parts.unet.config
    if isinstance(parts.autoencoder, TinyAutoencoder):
        raise ValueError("a TAESD only approximates the autoencoder of a model; open it without vae= to save it")
    kept = ("mean", "std") if is_xl(config) and latent_format.mean and latent_format.std else ()
    for name in ("shift", "mean", "std"):
        if name not in kept and getattr(latent_format, name):
            raise ValueError(
                f"latent_format.{name}={getattr(latent_format, name)} would be ignored by Stable Diffusion pipelines; "
                "fold it into the autoencoder with fold_whitening"
            )
    scheduler = scheduler_fields(
        parts.process,
        parts.prediction_type,
        defaults.sampler,
        defaults.schedule,
        defaults.sampler_options,
        defaults.schedule_options,
    )
    size = defaults.height // latent_format.factor, defaults.width // latent_format.factor
    unet = unet_fields(config, size)
    # diffusers must sum attention in fp32 there; half precision overflows in the SD 2 models that predict v.
    unet["upcast_attention"] = config.linear_projection and not is_xl(config) and parts.prediction_type != "epsilon"
    statistics = {f"latents_{name}": list(getattr(latent_format, name)) for name in kept}
    index = _index(parts, scheduler["_class_name"])
    with write_folder(path) as folder:
        write_network(parts.unet, folder / "unet", unet, dtype)
        save_autoencoder(parts.autoencoder, folder / "vae", latent_format.scale, dtype, statistics)
        write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
        if parts.text is not None:
            save_text_encoder(parts.text, folder, dtype)
        if parts.upscaler is not None:
            save_upscaler(parts.upscaler, folder / "upscaler", dtype)
        if parts.low_resolution is not None:
            fields = scheduler_fields(parts.low_resolution.process, "epsilon", "ddpm", "leading")
            write_json(folder / "low_res_scheduler" / "scheduler_config.json", fields)
        own = {name: getattr(defaults, name) for name in DEFAULTS_TYPES}
        if latent_format.preview != usual_latent_format(config).preview and latent_format.preview is not None:
            own[_PREVIEW] = latent_format.preview
        write_json(folder / _DEFAULTS_FILE, own)
        if parts.few_steps is not None:
            save_few_steps(parts.few_steps, folder)
        if parts.errors is not None:
            save_errors(parts.errors, folder)
        if parts.words is not None:
            (folder / _WORDS_FILE).write_text("\n".join(sorted(parts.words)) + "\n", encoding="utf-8")
        write_json(folder / "model_index.json", index)


def load_unet(path: Path, dtype: torch.dtype = torch.float32, variant: str | None = None) -> UNet:
    """The U-Net of a model folder, or of a `unet` folder itself. Raises ModelFileError."""
    return _load_unet(path, dtype, variant)[0]


def load_text(path: Path, dtype: torch.dtype = torch.float32) -> ClipTextEncoder:
    """The text encoder of a model folder, or of one with `tokenizer` and `text_encoder` alone. Raises ModelFileError.

    Two towers, as `model_index.json` names them, are read at the layer before the last, as Stable Diffusion XL does.
    """
    file = path / "model_index.json"
    classes = _tower_classes(read_json(file), file) if file.is_file() else {PLACES[0]: "CLIPTextModel"}
    return load_text_encoder(path, classes, dtype, penultimate=PLACES[1] in classes)


def _load_unet(path: Path, dtype: torch.dtype, variant: str | None) -> tuple[UNet, tuple[int, int] | None]:
    folder = part_of(path, "unet")
    config, size = unet_config(read_json(folder / "config.json"), str(folder / "config.json"))
    return load_weights(lambda: UNet(config), folder_weights(folder, STEM, variant), str(folder), dtype), size


def _load_autoencoder(
    path: Path, dtype: torch.dtype, variant: str | None, vae: StoredAutoencoder | None, config: UNetConfig
) -> tuple[Autoencoder, LatentFormat]:
    steady = torch.float32 if dtype == torch.float16 else dtype
    file = path / "vae" / "config.json"
    if vae is not None:
        if file.is_file():
            own = autoencoder_config(read_json(file), str(file))[1]
        else:
            own = replace(usual_latent_format(config), factor=vae.config.factor)
        return vae.load(steady), vae.format_for(own)
    if not file.parent.is_dir():
        raise ModelFileError(f"{path} is a model without an autoencoder (vae/); name one with --vae FILE (vae=)")
    return load_autoencoder(path, steady, variant)


def _known() -> str:
    return ", ".join(name for name in KNOWN if name != OURS)


def _tower_classes(index: Mapping[str, Any], file: Path) -> dict[str, str]:
    """transformers' class of each text encoder, by folder, as `model_index.json` has them."""
    entries = {place: index[place] for place in PLACES if index.get(place) not in (None, [None, None])}
    if not entries:
        raise ModelFileError(f"{file}: text_encoder is missing; a {index['_class_name']} has one")
    for place, entry in entries.items():
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], str):
            raise ModelFileError(f"{file}: {place}={entry!r} is not a library and a class")
    return {place: entry[1] for place, entry in entries.items()}


def _low_resolution(path: Path, index: Mapping[str, Any]) -> LowResolution:
    file = path / "low_res_scheduler" / "scheduler_config.json"
    fields = {name: value for name, value in read_json(file).items() if name in TABLE_DEFAULTS}
    settings = scheduler_settings({"_class_name": "DDPMScheduler", **fields}, str(file))
    return LowResolution(settings.process, index.get("max_noise_level", 350))


def _check_fit(path: Path, unet: UNet, latent_format: LatentFormat, text: ClipTextEncoder | None) -> None:
    config, file = unet.config, path / "unet" / "config.json"
    if config.out_channels != latent_format.channels:
        name = "in_channels" if config.in_channels == config.out_channels else "out_channels"
        raise ModelFileError(
            f"{file}: {name}={getattr(config, name)}, but the vae has {latent_format.channels} channels"
        )
    if kind_of(config) is None:
        raise ModelFileError(
            f"{file}: in_channels={config.in_channels} are {config.in_channels - config.out_channels} more than the "
            "latent's, which is no known kind of model"
        )
    if latent_format.mean and not is_xl(config):
        raise ModelFileError(
            f"{path / 'vae' / 'config.json'}: latents_mean={latent_format.mean} is not supported for this model; only "
            "pipelines of Stable Diffusion XL know it"
        )
    if text is None:
        return
    if config.context_dim not in (None, text.widths.tokens):
        raise ModelFileError(
            f"{file}: cross_attention_dim={config.context_dim}, but the text encoder's width is {text.widths.tokens}"
        )
    if config.pooled_dim not in (None, text.widths.pooled):
        raise ModelFileError(
            f"{file}: pooled text of {config.pooled_dim} numbers (projection_class_embeddings_input_dim="
            f"{config.vector_dim}), but the text encoder's has {text.widths.pooled}"
        )


def words_in(path: Path) -> frozenset[str] | None:
    """The words of the captions that a model was trained on: our `words.txt`, which other folders lack.

    Raises ModelFileError.
    """
    try:
        return frozenset((path / _WORDS_FILE).read_text(encoding="utf-8").split())
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path / _WORDS_FILE} cannot be read ({error}); copy it again, or delete it") from None


def _own_defaults(path: Path) -> dict[str, Any]:
    """What diffusers has no file for: our `ldm.json`, absent from folders that others wrote."""
    file = path / _DEFAULTS_FILE
    if not file.exists():
        return {}
    content = read_json(file)
    for name in content:
        if name not in (*DEFAULTS_TYPES, _PREVIEW):
            known = ", ".join((*DEFAULTS_TYPES, _PREVIEW))
            raise ModelFileError(f"{file}: {name} is unknown to this version; known: {known}")
    check_types(content, DEFAULTS_TYPES, str(file))
    return content


def _with_preview(path: Path, latent_format: LatentFormat, rows: Any) -> LatentFormat:
    """The format with the preview matrix of our `ldm.json`, rows of three numbers. Raises ModelFileError."""
    is_matrix = isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == 3 and all(isinstance(each, int | float) for each in row) for row in rows
    )
    if not is_matrix or len(rows) != latent_format.channels + 1:
        raise ModelFileError(
            f"{path / _DEFAULTS_FILE}: {_PREVIEW} must be {latent_format.channels + 1} rows of three numbers; delete it"
        )
    return replace(latent_format, preview=tuple((row[0], row[1], row[2]) for row in rows))


def _index(parts: ModelParts, scheduler: str) -> dict[str, Any]:
    config = parts.unet.config
    index: dict[str, Any] = {
        "_class_name": pipeline_class(config, parts.text is not None),
        "_diffusers_version": DIFFUSERS_VERSION,
        "scheduler": ["diffusers", scheduler],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "VQModel" if parts.autoencoder.config.codebook_size else "AutoencoderKL"],
    }
    if parts.text is None:
        return index
    towers = towers_by_folder(parts.text)
    for place in PLACES if is_xl(config) else towers:
        tower, tokenizer = towers.get(place), tokenizer_of(place)
        index[place] = [None, None] if tower is None else ["transformers", class_name(tower)]
        index[tokenizer] = [None, None] if tower is None else ["transformers", "CLIPTokenizer"]
    if is_xl(config):
        index["force_zeros_for_empty_prompt"] = parts.zeros_for_empty
    if parts.low_resolution is not None:
        index["low_res_scheduler"] = ["diffusers", "DDPMScheduler"]
        index["max_noise_level"] = parts.low_resolution.max_noise_level
    return index | optional_parts(config)
