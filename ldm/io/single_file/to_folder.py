"""A `Checkpoint` written as a folder that diffusers opens, tensor by tensor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ldm.families.family import Tower
from ldm.families.kinds import UPSCALING
from ldm.families.parts import LowResolution
from ldm.io.disk.files import write_folder, write_json
from ldm.io.folder.autoencoder import autoencoder_fields
from ldm.io.folder.config_fields import DIFFUSERS_VERSION
from ldm.io.folder.pipelines import is_xl, optional_parts, pipeline_class
from ldm.io.folder.scheduler import scheduler_fields
from ldm.io.folder.unet import unet_fields
from ldm.io.single_file.checkpoint import Checkpoint
from ldm.io.single_file.load import settings_for
from ldm.io.single_file.save import check_whole
from ldm.io.single_file.text_config import build_tokenizer, text_fields
from ldm.io.tensors.safetensors_file import write_safetensors
from ldm.io.tensors.weights import Weights, cast

Advance = Callable[[int], None]


def save_as_folder(
    checkpoint: Checkpoint,
    path: Path,
    dtype: torch.dtype | None = None,
    advance: Advance = lambda size: None,
) -> None:
    """Write a model as a diffusers folder, atomically. Of a file with the U-Net alone, only the `unet` folder.

    Args:
        checkpoint: the model.
        path: of the folder.
        dtype: of the weights in the files; None keeps what they are in.
        advance: gets the bytes of each weight that is written.

    Raises:
        ModelFileError: weights that do not fit.
        ValueError: nothing says what a network predicts.
        OSError: a file cannot be written.
    """
    check_whole(checkpoint)
    settings = None if checkpoint.missing else settings_for(checkpoint)
    family, with_v = checkpoint.family, checkpoint.prediction.prediction_type == "v_prediction"
    side = (family.size_v if with_v else family.size) // 2 ** (len(family.autoencoder.widths) - 1)
    unet: dict[str, Any] = unet_fields(checkpoint.unet_config, (side, side))
    unet["upcast_attention"] = family.name == "sd2" and with_v  # fp16 overflows there, in diffusers too
    with write_folder(path) as folder:
        networks = checkpoint.networks()
        write_json(folder / "unet" / "config.json", unet)
        if checkpoint.autoencoder_config is not None:
            fields = autoencoder_fields(checkpoint.autoencoder_config, family.latent_scale)
            write_json(folder / "vae" / "config.json", fields)
        for text in checkpoint.texts:
            write_json(folder / text.tower.folder / "config.json", text_fields(text.config))
            build_tokenizer(text.config).save(folder / _tokenizer(text.tower))
        for name, weights in networks.items():
            stem = "model" if name.startswith("text_encoder") else "diffusion_pytorch_model"
            _write(weights, folder / name / f"{stem}.safetensors", dtype, advance)
        if settings is not None:
            scheduler = scheduler_fields(**vars(settings))
            write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
            if checkpoint.kind == UPSCALING:
                low = scheduler_fields(LowResolution().process, "epsilon", "ddpm", "leading")
                write_json(folder / "low_res_scheduler" / "scheduler_config.json", low)
            write_json(folder / "model_index.json", _index(checkpoint, scheduler))


def _write(weights: Weights, path: Path, dtype: torch.dtype | None, advance: Advance) -> None:
    write_safetensors(path, {name: cast(weight, dtype) for name, weight in weights.items()}, {}, advance)


def _tokenizer(tower: Tower) -> str:
    return tower.folder.replace("text_encoder", "tokenizer")


def _index(checkpoint: Checkpoint, scheduler: dict[str, object]) -> dict[str, Any]:
    config, low = checkpoint.unet_config, LowResolution()
    index: dict[str, Any] = {
        "_class_name": pipeline_class(config, has_text=True),
        "_diffusers_version": DIFFUSERS_VERSION,
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    for text in checkpoint.texts:
        index[text.tower.folder] = ["transformers", text_fields(text.config)["architectures"][0]]
        index[_tokenizer(text.tower)] = ["transformers", "CLIPTokenizer"]
    if len(checkpoint.texts) == 1 and is_xl(config):
        index |= {"text_encoder": [None, None], "tokenizer": [None, None]}
    if is_xl(config):
        index["force_zeros_for_empty_prompt"] = checkpoint.family.zeros_for_empty
    if checkpoint.kind == UPSCALING:
        index |= {"low_res_scheduler": ["diffusers", "DDPMScheduler"], "max_noise_level": low.max_noise_level}
    return index | optional_parts(config)
