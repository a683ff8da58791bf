"""Autoencoders as folders that diffusers' `AutoencoderKL` or `VQModel` opens: config and weights, both ways."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from autoencoder.build import Autoencoder, build_autoencoder
from autoencoder.config import AutoencoderConfig
from autoencoder.latent_format import LatentFormat
from ldm.io.disk.files import ModelFileError, read_json
from ldm.io.folder.config_fields import check_fields
from ldm.io.folder.field_types import AUTOENCODER_TYPES
from ldm.io.folder.folder_weights import STEM, folder_weights, part_of, write_network
from ldm.io.tensors.load_weights import load_weights

_AUTOENCODER_DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "block_out_channels": [64],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
_DOWN_LEVELS = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")
_UP_LEVELS = ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")
# What VQModel assumes beside or in place of it.
_VQ_DEFAULTS: dict[str, Any] = {"latent_channels": 3, "num_vq_embeddings": 256, "vq_embed_dim": None}
_VQ_FIXED: dict[str, tuple[Any, ...]] = {"norm_type": ("group",), "lookup_from_codebook": (False, True)}
_AUTOENCODER_FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
}
# Facts about how a model was made or run that change no number here.
_AUTOENCODER_REMARKS = ("sample_size", "force_upcast")


def load_autoencoder(
    path: Path, dtype: torch.dtype = torch.float32, variant: str | None = None
) -> tuple[Autoencoder, LatentFormat]:
    """The autoencoder of a model folder, or of a `vae` folder itself, with its latent format. Raises ModelFileError."""
    folder = part_of(path, "vae")
    config, latent_format = autoencoder_config(read_json(folder / "config.json"), str(folder / "config.json"))
    weights = folder_weights(folder, STEM, variant)
    weights = {modern_autoencoder_name(name): weight for name, weight in weights.items()}
    return load_weights(lambda: build_autoencoder(config), weights, str(folder), dtype), latent_format


def save_autoencoder(
    autoencoder: Autoencoder,
    folder: Path,
    scaling_factor: float | None = 1.0,
    dtype: torch.dtype | None = torch.float32,
    statistics: Mapping[str, list[float]] | None = None,
) -> None:
    """Write `config.json` and `diffusion_pytorch_model.safetensors` into a folder, which is made if it is missing.

    Args:
        autoencoder: the model to write.
        folder: usually `<model>/vae`.
        scaling_factor: what latents are multiplied with for the denoiser; None leaves it unsaid.
        dtype: of the weights in the file; None keeps theirs.
        statistics: `latents_mean` and `latents_std`, which only pipelines of Stable Diffusion XL know.
    """
    fields = autoencoder_fields(autoencoder.config, scaling_factor) | dict(statistics or {})
    write_network(autoencoder, folder, fields, dtype)


def autoencoder_fields(config: AutoencoderConfig, scaling_factor: float | None) -> dict[str, Any]:
    """`config.json` of diffusers' AutoencoderKL, or of its VQModel where there is a codebook.

    scaling_factor: what latents are multiplied with for the denoiser; None leaves it out.
    """
    attention = [level in config.attention_levels for level in range(len(config.widths))]
    fields: dict[str, Any] = {
        "_class_name": "VQModel" if config.codebook_size else "AutoencoderKL",
        "in_channels": config.in_channels,
        "out_channels": config.in_channels,
        "down_block_types": ["AttnDownEncoderBlock2D" if each else "DownEncoderBlock2D" for each in attention],
        "up_block_types": ["AttnUpDecoderBlock2D" if each else "UpDecoderBlock2D" for each in reversed(attention)],
        "block_out_channels": list(config.widths),
        "layers_per_block": config.blocks_per_level,
        "act_fn": "silu",
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.norm_groups,
        "sample_size": 32 * config.factor,
        "force_upcast": True,
        "mid_block_add_attention": config.mid_attention,
    }
    if scaling_factor is not None:
        fields["scaling_factor"] = scaling_factor
    if config.codebook_size:
        return fields | {"num_vq_embeddings": config.codebook_size, "vq_embed_dim": config.code_channels}
    return fields | {"use_quant_conv": config.quant_conv, "use_post_quant_conv": config.quant_conv}


def autoencoder_config(fields: Mapping[str, Any], where: str) -> tuple[AutoencoderConfig, LatentFormat]:
    """`AutoencoderKL` or `VQModel` fields -> our config and latent format.

    Raises ModelFileError naming the field and `where`.
    """
    quantised = fields.get("_class_name") == "VQModel"
    defaults = _AUTOENCODER_DEFAULTS | (_VQ_DEFAULTS if quantised else {})
    f = check_fields(
        fields,
        defaults,
        _AUTOENCODER_FIXED | (_VQ_FIXED if quantised else {}),
        AUTOENCODER_TYPES,
        where,
        _AUTOENCODER_REMARKS,
    )
    attention = _attention_levels(f, where)
    for one, other in (("in_channels", "out_channels"), ("use_quant_conv", "use_post_quant_conv")):
        if f[one] != f[other]:
            raise ModelFileError(
                f"{where}: {one}={f[one]} and {other}={f[other]} differ; only equal ones are supported"
            )
    try:
        config = AutoencoderConfig(
            in_channels=f["in_channels"],
            latent_channels=f["latent_channels"],
            widths=tuple(f["block_out_channels"]),
            blocks_per_level=f["layers_per_block"],
            norm_groups=f["norm_num_groups"],
            mid_attention=f["mid_block_add_attention"],
            attention_levels=attention,
            quant_conv=f["use_quant_conv"],
            codebook_size=f["num_vq_embeddings"] if quantised else 0,
            codebook_dim=(f["vq_embed_dim"] or 0) if quantised else 0,
        )
    except ValueError as error:
        raise ModelFileError(f"{where}: {error}") from None
    mean, std = f["latents_mean"], f["latents_std"]
    if (mean, std) != (None, None) and not all(
        isinstance(values, list | tuple) and len(values) == config.latent_channels for values in (mean, std)
    ):
        raise ModelFileError(
            f"{where}: latents_mean={mean} with latents_std={std} is not supported; "
            f"only both together, with {config.latent_channels} numbers each, are"
        )
    return config, LatentFormat(
        scale=f["scaling_factor"],
        shift=f["shift_factor"] or 0.0,
        channels=config.code_channels,
        factor=config.factor,
        mean=None if mean is None else tuple(map(float, mean)),
        std=None if std is None else tuple(map(float, std)),
    )


def _attention_levels(fields: Mapping[str, Any], where: str) -> tuple[int, ...]:
    """The levels, finest first, whose blocks have attention in encoder and decoder alike."""
    levels = len(fields["block_out_channels"])
    for name, known in (("down_block_types", _DOWN_LEVELS), ("up_block_types", _UP_LEVELS)):
        if len(fields[name]) != levels or not set(fields[name]) <= set(known):
            raise ModelFileError(
                f"{where}: {name}={fields[name]} is not supported; only {levels} of {' and '.join(known)} are"
            )
    down = [kind == _DOWN_LEVELS[1] for kind in fields["down_block_types"]]
    if down != [kind == _UP_LEVELS[1] for kind in reversed(fields["up_block_types"])]:
        raise ModelFileError(
            f"{where}: up_block_types={fields['up_block_types']} do not mirror "
            f"down_block_types={fields['down_block_types']}"
        )
    return tuple(level for level, has_attention in enumerate(down) if has_attention)


def modern_autoencoder_name(name: str) -> str:
    """A parameter name of an `AutoencoderKL` saved before diffusers 0.17 (as SD 1.5's is) -> today's name."""
    for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
        name = name.replace(f".attentions.0.{old}.", f".attentions.0.{new}.")
    return name
