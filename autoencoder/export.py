"""Write an autoencoder as the folder that `diffusers.AutoencoderKL.from_pretrained` opens."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from autoencoder.config import AutoencoderConfig
from autoencoder.kl import KLAutoencoder


def save_autoencoder(
    autoencoder: KLAutoencoder, folder: Path, scaling_factor: float = 1.0, dtype: torch.dtype = torch.float32
) -> None:
    """Write `config.json` and `diffusion_pytorch_model.safetensors` into folder, which is made if it is missing.

    Args:
        autoencoder: the model to write.
        folder: usually `<model>/vae`.
        scaling_factor: what latents are multiplied with for the denoiser.
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


def autoencoder_fields(config: AutoencoderConfig, scaling_factor: float) -> dict[str, Any]:
    """`config.json` of diffusers' AutoencoderKL. scaling_factor: what latents are multiplied with for the denoiser."""
    levels = len(config.widths)
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": config.in_channels,
        "out_channels": config.in_channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": list(config.widths),
        "layers_per_block": config.blocks_per_level,
        "act_fn": "silu",
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.norm_groups,
        "sample_size": 32 * config.factor,
        "scaling_factor": scaling_factor,
        "force_upcast": True,
        "mid_block_add_attention": config.mid_attention,
        "use_quant_conv": config.quant_conv,
        "use_post_quant_conv": config.quant_conv,
    }
