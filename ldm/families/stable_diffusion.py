"""The Stable Diffusion families: what their files share, and what no file says of itself.

Sizes are those of the published models (CompVis, Stability AI and Runway); a file may have others of the same kind.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from autoencoder.config import AutoencoderConfig
from conditioning.clip.vocabulary import PAD_EOS, PAD_ZERO
from ldm.networks.unet.config import UNetConfig

_SD_TABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
_PNDM = {"_class_name": "PNDMScheduler", "set_alpha_to_one": False, "skip_prk_steps": True, **_SD_TABLE}
_DDIM = {"_class_name": "DDIMScheduler", "set_alpha_to_one": False, "clip_sample": False, **_SD_TABLE}
_EULER = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", **_SD_TABLE}
ZERO_SNR_SCHEDULER = {**_EULER, "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
"""Only `trailing` starts where zero-terminal SNR has no signal left (Lin et al. 2024, arXiv:2305.08891, sec. 3.3)."""


@dataclass(frozen=True)
class Heads:
    """Attention heads of a U-Net: a fixed number for every width, or one for each `width` channels."""

    number: int | None = None
    width: int = 64

    def count(self, channels: int) -> int:
        """Heads of a level with so many channels."""
        return self.number or max(channels // self.width, 1)


@dataclass(frozen=True)
class Tower:
    """Where a text encoder is in a file, and what its weights do not say.

    layout: `clip` or `open_clip`. folder: its name in diffusers' folders. projected: its projection of the pooled text
    is used. penultimate: the last layer of the whole tower is not run, and folders do not have it.
    """

    prefix: str
    layout: str
    activation: str
    pad_token: str
    folder: str = "text_encoder"
    projected: bool = False
    penultimate: bool = False
    head_width: int = 64


@dataclass(frozen=True)
class Family:
    """One family.

    title: for people. unet, autoencoder: the published sizes (of text to image). heads, size_count: what
    their weights do not say. towers: text encoders in order. latent_scale: of the latents for the denoiser.
    prediction_type: of every model of the family; None where there are both. schedulers: prediction type -> fields of
    the published scheduler file. size: pixels; resolution of `v_prediction` models where it differs: size_v.
    architecture: its name in `modelspec.architecture`. zeros_for_empty: see `ldm.io.folder.load.ModelParts`.
    """

    name: str
    title: str
    architecture: str
    unet: UNetConfig
    autoencoder: AutoencoderConfig
    heads: Heads
    towers: tuple[Tower, ...]
    latent_scale: float
    prediction_type: str | None
    schedulers: Mapping[str, Mapping[str, Any]]
    size: int
    size_v: int
    size_count: int = 6
    zeros_for_empty: bool = False


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

SD1 = Family(
    name="sd1",
    title="Stable Diffusion 1.x",
    architecture="stable-diffusion-v1",
    unet=UNetConfig(),
    autoencoder=AutoencoderConfig(),
    heads=Heads(number=8),
    towers=(_FIRST,),
    latent_scale=0.18215,
    prediction_type="epsilon",
    schedulers={"epsilon": _PNDM, "v_prediction": _DDIM},
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
    prediction_type=None,
    schedulers={"epsilon": _PNDM, "v_prediction": _DDIM},
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
    prediction_type="epsilon",
    schedulers={"epsilon": _EULER, "v_prediction": _EULER},
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
    prediction_type="epsilon",
    schedulers={"epsilon": _EULER, "v_prediction": _EULER},
    size=1024,
    size_v=1024,
    size_count=5,
)
_X4_SCHEDULER = {**_DDIM, "beta_start": 0.0001, "beta_end": 0.02}
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
    schedulers={"epsilon": _X4_SCHEDULER, "v_prediction": _X4_SCHEDULER},
    size=512,
    size_v=512,
)

FAMILIES = {family.name: family for family in (SD1, SD2, SDXL, SDXL_REFINER, X4_UPSCALER)}
