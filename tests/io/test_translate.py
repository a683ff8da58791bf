"""diffusers' config files <-> our configs: the same network comes out, and nothing is ignored."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, VQModel
from torch import nn

from autoencoder.kl import KLAutoencoder
from autoencoder.vq import VQAutoencoder
from ldm.io.disk.files import ModelFileError
from ldm.io.folder.autoencoder import autoencoder_config
from ldm.io.folder.unet import unet_config, unet_fields
from ldm.networks.unet import UNet, UNetConfig

FILE = "unet/config.json"
SD1: dict[str, Any] = {"attention_head_dim": 8, "cross_attention_dim": 768, "sample_size": 64}
SD2: dict[str, Any] = {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "upcast_attention": True,
    "sample_size": 96,
}
SDXL: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "upcast_attention": None,  # as published
    "use_linear_projection": True,
}
CLASSES: dict[str, Any] = {
    "block_out_channels": [32, 64],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "num_class_embeds": 11,
    "sample_size": [8, 16],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
}
FAMILIES = {"sd1": SD1, "sd2": SD2, "sdxl": SDXL, "classes": CLASSES}


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def on_meta(build, *args, **fields) -> nn.Module:
    with torch.device("meta"):
        return build(*args, **fields)


@pytest.mark.parametrize("family", FAMILIES)
def test_unet_has_the_weights_of_diffusers_at_full_size(family: str) -> None:
    network = on_meta(UNet2DConditionModel, **FAMILIES[family])
    config, _ = unet_config(network.config, FILE)
    assert shapes(on_meta(UNet, config)) == shapes(network)


@pytest.mark.parametrize("family", FAMILIES)
def test_unet_config_survives_the_round_trip(family: str) -> None:
    config, size = unet_config(FAMILIES[family], FILE)
    fields = unet_fields(config, size)
    assert unet_config(fields, FILE) == (config, size)
    rebuilt = on_meta(UNet2DConditionModel.from_config, {k: v for k, v in fields.items() if k[0] != "_"})
    assert shapes(rebuilt) == shapes(on_meta(UNet, config))


def test_attention_head_dim_means_heads() -> None:
    assert unet_config(SD1, FILE)[0].num_heads == (8, 8, 8, 8)
    assert unet_config(SD2, FILE)[0].num_heads == (5, 10, 20, 20)
    attention = on_meta(UNet2DConditionModel, **SD2).down_blocks[0].attentions[0].transformer_blocks[0].attn1
    assert attention.heads == 5


def test_latent_size_may_be_square_oblong_or_unstated() -> None:
    assert unet_config(SD1, FILE)[1] == (64, 64)
    assert unet_config(CLASSES, FILE)[1] == (8, 16)
    assert unet_config({}, FILE)[1] is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"act_fn": "gelu"}, "unet/config.json: act_fn='gelu' is not supported; only 'silu' is"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type='fourier'"),
        ({"from_the_future": 3}, "from_the_future=3 is unknown"),
        ({"down_block_types": ["AttnDownBlock2D"] * 4}, "down_block_types="),
        ({"up_block_types": ["UpBlock2D"] * 4}, "up_block_types=.* do not mirror"),
        ({"mid_block_type": None}, "mid_block_type=None"),
        ({"layers_per_block": [1, 2, 2, 2]}, "layers_per_block=.* differs between levels"),
        ({"attention_head_dim": [8, 8]}, "attention_head_dim="),
        ({"addition_embed_type": "image"}, "addition_embed_type='image'"),
        ({"projection_class_embeddings_input_dim": 9}, "projection_class_embeddings_input_dim=9 without"),
        ({"norm_num_groups": 31}, "unet/config.json: .*31"),
        ({"encoder_hid_dim": 4}, "encoder_hid_dim=4"),
    ],
)
def test_unsupported_unet_fields_are_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        unet_config({**SD1, **fields}, FILE)


def test_shape_without_words_in_diffusers_is_refused() -> None:
    config = UNetConfig(widths=(32, 64), transformer_layers=(0, 2), mid_transformer_layers=1, num_heads=(2, 2))
    with pytest.raises(ValueError, match="mid_transformer_layers=1 differs"):
        unet_fields(config, None)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"block_out_channels": [32, 64], "layers_per_block": 2, "latent_channels": 8, "mid_block_add_attention": False},
        {"block_out_channels": [32, 64, 64], "use_quant_conv": False, "use_post_quant_conv": False},
    ],
)
def test_autoencoder_has_the_weights_of_diffusers(fields: dict[str, Any]) -> None:
    levels = len(fields.get("block_out_channels", [64]))
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels}
    network = on_meta(AutoencoderKL, **fields, **blocks)
    config, latent_format = autoencoder_config(network.config, "vae/config.json")
    assert shapes(on_meta(KLAutoencoder, config)) == shapes(network)
    assert latent_format.scale == 0.18215 and latent_format.factor == 2 ** (levels - 1)


def test_mean_and_deviation_of_latents_become_the_latent_format() -> None:
    fields = {"latents_mean": [0.1, 0.2, 0.3, 0.4], "latents_std": [1, 2, 3, 4], "scaling_factor": 0.5}
    latent_format = autoencoder_config(fields, "vae/config.json")[1]
    assert (latent_format.mean, latent_format.std) == ((0.1, 0.2, 0.3, 0.4), (1.0, 2.0, 3.0, 4.0))
    z = torch.ones(1, 4, 1, 1)  # diffusers: latents * std / scaling_factor + mean
    assert latent_format.to_autoencoder(z).flatten().tolist() == pytest.approx([2.1, 4.2, 6.3, 8.4])


def test_levels_with_attention_and_a_codebook_are_translated() -> None:
    blocks = {
        "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
        "block_out_channels": [32, 64],
    }
    network = on_meta(VQModel, **blocks, vq_embed_dim=5)
    config, latent_format = autoencoder_config({**network.config, "_class_name": "VQModel"}, "vqvae/config.json")
    assert (config.attention_levels, config.codebook_size, latent_format.channels) == ((1,), 256, 5)
    assert shapes(on_meta(VQAutoencoder, config)) == shapes(network)
    with pytest.raises(ModelFileError, match="norm_type='spatial' is not supported"):
        autoencoder_config({"_class_name": "VQModel", "norm_type": "spatial"}, "vqvae/config.json")
    with pytest.raises(ModelFileError, match="do not mirror"):
        autoencoder_config(blocks | {"up_block_types": blocks["up_block_types"][::-1]}, "vae/config.json")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latents_mean": [0.0] * 4}, r"latents_mean=\[0.0, .* with latents_std=None is not supported"),
        ({"latents_mean": [0.0], "latents_std": [1.0]}, "only both together, with 4 numbers each, are"),
        ({"act_fn": "relu"}, "act_fn='relu'"),
        ({"out_channels": 1}, "in_channels=3 and out_channels=1"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"]}, "down_block_types="),
        ({"tiles": 4}, "vae/config.json: tiles=4 is unknown"),
        ({"norm_num_groups": 30}, "vae/config.json: .*30"),
    ],
)
def test_unsupported_autoencoder_fields_are_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        autoencoder_config(fields, "vae/config.json")
