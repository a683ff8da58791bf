"""Write an autoencoder as the folder that diffusers' `AutoencoderKL` or `VQModel.from_pretrained` opens."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from autoencoder.build import Autoencoder
from autoencoder.config import AutoencoderConfig


def save_autoencoder(
    autoencoder: Autoencoder, folder: Path, scaling_factor: float | None = 1.0, dtype: torch.dtype = torch.float32
) -> None:
    """Write `config.json` and `diffusion_pytorch_model.safetensors` into folder, which is made if it is missing.

    Args:
        autoencoder: the model to write.
        folder: usually `<model>/vae`.
        scaling_factor: what latents are multiplied with for the denoiser; None leaves it unsaid.
        dtype: of the weights in the file.
    """
    document = autoencoder_fields(autoencoder.config, scaling_factor)
    weights = {
        name: value.detach().to("cpu", dtype).contiguous(memory_format=torch.contiguous_format)
        for name, value in autoencoder.state_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


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
