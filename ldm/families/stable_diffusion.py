"""The Stable Diffusion families.

Sizes are those of the published models (CompVis, Stability AI and Runway); a file may have others of the same kind.
"""

from dataclasses import replace

from autoencoder.config import AutoencoderConfig
from conditioning.clip.vocabulary import PAD_EOS, PAD_ZERO
from ldm.families.family import Family, Heads, Tower
from ldm.networks.unet.config import UNetConfig
from ldm.process import DiscreteVP

_NOISE = DiscreteVP("scaled_linear", beta_start=0.00085, beta_end=0.012, final_alpha_one=False)
_XL_NOISE = replace(_NOISE, final_alpha_one=True)
_X4_NOISE = replace(_NOISE, beta_start=0.0001, beta_end=0.02)
_PLMS_OR_DDIM = {"epsilon": "plms", "v_prediction": "ddim"}
_DDIM, _EULER = (dict.fromkeys(("epsilon", "v_prediction"), sampler) for sampler in ("ddim", "euler"))

_FIRST = Tower("cond_stage_model.transformer.", "clip", "quick_gelu", PAD_EOS)
_SECOND = Tower("cond_stage_model.model.", "open_clip", "gelu", PAD_ZERO, penultimate=True)
_XL_FIRST = Tower("conditioner.embedders.0.transformer.", "clip", "quick_gelu", PAD_EOS)
_XL_SECOND = Tower("conditioner.embedders.1.model.", "open_clip", "gelu", PAD_ZERO, "text_encoder_2", projected=True)
_XL_ONLY = replace(_XL_SECOND, prefix="conditioner.embedders.0.model.")

_XL_UNET = UNetConfig(
    widths=(320, 640, 1280),
    transformer_layers=(0, 2, 10),
    mid_transformer_layers=10,
    num_heads=(5, 10, 20),
    context_dim=2048,
    linear_projection=True,
    pooled_dim=1280,
    size_embedding_dim=256,
)

_PREVIEW = (
    (0.3444, 0.1385, 0.0670),
    (0.1247, 0.4027, 0.1494),
    (-0.3192, 0.2513, 0.2103),
    (-0.1307, -0.1874, -0.7445),
    (0.0, 0.0, 0.0),
)
"""Fitted to the autoencoder of Stable Diffusion 1 and 2 by users of its forum; what InvokeAI shows (Apache 2.0)."""
_XL_PREVIEW = (
    (0.3816, 0.4930, 0.5320),
    (-0.3753, 0.1631, 0.1739),
    (0.1770, 0.3588, -0.2048),
    (-0.4350, -0.2644, -0.4289),
    (0.0, 0.0, 0.0),
)

SD1 = Family(
    name="sd1",
    title="Stable Diffusion 1.x",
    architecture="stable-diffusion-v1",
    unet=UNetConfig(),
    autoencoder=AutoencoderConfig(),
    heads=Heads(number=8),
    towers=(_FIRST,),
    latent_scale=0.18215,
    preview=_PREVIEW,
    prediction_type="epsilon",
    process=_NOISE,
    samplers=_PLMS_OR_DDIM,
    size=512,
    size_v=512,
)
SD2 = Family(
    name="sd2",
    title="Stable Diffusion 2.x",
    architecture="stable-diffusion-v2",
    unet=UNetConfig(num_heads=(5, 10, 20, 20), context_dim=1024, linear_projection=True),
    autoencoder=AutoencoderConfig(),
    heads=Heads(width=64),
    towers=(_SECOND,),
    latent_scale=0.18215,
    preview=_PREVIEW,
    prediction_type=None,
    process=_NOISE,
    samplers=_PLMS_OR_DDIM,
    size=512,
    size_v=768,
)
SDXL = Family(
    name="sdxl",
    title="Stable Diffusion XL",
    architecture="stable-diffusion-xl-v1-base",
    unet=_XL_UNET,
    autoencoder=AutoencoderConfig(),
    heads=Heads(width=64),
    towers=(_XL_FIRST, _XL_SECOND),
    latent_scale=0.13025,
    preview=_XL_PREVIEW,
    prediction_type="epsilon",
    process=_XL_NOISE,
    samplers=_EULER,
    size=1024,
    size_v=1024,
    zeros_for_empty=True,
)
SDXL_REFINER = Family(
    name="sdxl-refiner",
    title="Stable Diffusion XL refiner",
    architecture="stable-diffusion-xl-v1-refiner",
    unet=UNetConfig(
        widths=(384, 768, 1536, 1536),
        transformer_layers=(0, 4, 4, 0),
        mid_transformer_layers=4,
        num_heads=(6, 12, 24, 24),
        context_dim=1280,
        linear_projection=True,
        pooled_dim=1280,
        size_embedding_dim=256,
        size_count=5,
    ),
    autoencoder=AutoencoderConfig(),
    heads=Heads(width=64),
    towers=(_XL_ONLY,),
    latent_scale=0.13025,
    preview=_XL_PREVIEW,
    prediction_type="epsilon",
    process=_XL_NOISE,
    samplers=_EULER,
    size=1024,
    size_v=1024,
    size_count=5,
)
X4_UPSCALER = Family(
    name="x4-upscaler",
    title="Stable Diffusion x4 upscaler",
    architecture="stable-diffusion-x4-upscaler",
    unet=UNetConfig(
        in_channels=7,
        widths=(256, 512, 512, 1024),
        transformer_layers=(0, 1, 1, 1),
        context_dim=1024,
        linear_projection=True,
        num_classes=1000,
        only_cross_attention=(False, True, True, False),
    ),
    autoencoder=AutoencoderConfig(widths=(128, 256, 512)),
    heads=Heads(number=8),
    towers=(_SECOND,),
    latent_scale=0.08333,
    prediction_type="v_prediction",
    process=_X4_NOISE,
    samplers=_DDIM,
    size=512,
    size_v=512,
)

FAMILIES = {family.name: family for family in (SD1, SD2, SDXL, SDXL_REFINER, X4_UPSCALER)}
