"""diffusers' pipeline classes: which are opened, and which one a model is written for."""

from dataclasses import replace
from typing import Any

from autoencoder.latent_format import LatentFormat
from ldm.families.kinds import DEPTH, EDITING, INPAINTING, TEXT_TO_IMAGE, UPSCALING, kind_of
from ldm.families.stable_diffusion import SD1, SDXL, X4_UPSCALER
from ldm.networks.unet.config import UNetConfig

OURS = "LatentDiffusion"
"""A model without a text encoder: diffusers has no pipeline for it and says so."""

_PLAIN = {
    TEXT_TO_IMAGE: "StableDiffusionPipeline",
    INPAINTING: "StableDiffusionInpaintPipeline",
    EDITING: "StableDiffusionInstructPix2PixPipeline",
    DEPTH: "StableDiffusionDepth2ImgPipeline",
    UPSCALING: "StableDiffusionUpscalePipeline",
}
_XL = {
    TEXT_TO_IMAGE: "StableDiffusionXLPipeline",
    INPAINTING: "StableDiffusionXLInpaintPipeline",
    EDITING: "StableDiffusionXLInstructPix2PixPipeline",
}
_REFINER = "StableDiffusionXLImg2ImgPipeline"

KNOWN = (*_PLAIN.values(), *_XL.values(), _REFINER, "StableDiffusionImg2ImgPipeline", OURS)
"""Classes in `model_index.json` that are opened. What a model is for is read off its networks, not off these names."""


def is_xl(config: UNetConfig) -> bool:
    """Whether a network is conditioned on sizes and pooled text, as SDXL's are."""
    return config.pooled_dim is not None


def pipeline_class(config: UNetConfig, has_text: bool) -> str:
    """The class that opens a model. Raises ValueError for one that diffusers has no class for."""
    if not has_text:
        return OURS
    kind = kind_of(config)
    if is_xl(config) and config.size_count == 5:
        return _REFINER
    table = _XL if is_xl(config) else _PLAIN
    if kind not in table:
        raise ValueError(f"in_channels={config.in_channels}: diffusers has no pipeline for such a model")
    return table[kind]


def usual_guidance_scale(config: UNetConfig) -> float:
    """What the pipeline of such a model takes by default."""
    return 9.0 if kind_of(config) == UPSCALING else 5.0 if is_xl(config) else 7.5


def usual_latent_format(config: UNetConfig) -> LatentFormat:
    """That of the published models of such a kind, for a model without its autoencoder."""
    family = X4_UPSCALER if kind_of(config) == UPSCALING else SDXL if is_xl(config) else SD1
    autoencoder, channels = family.autoencoder, config.out_channels
    preview = family.preview if channels == autoencoder.latent_channels else None
    return LatentFormat(family.latent_scale, channels=channels, factor=autoencoder.factor, preview=preview)


def with_usual_preview(latent_format: LatentFormat, config: UNetConfig) -> LatentFormat:
    """The format with the preview matrix of the published models of such a kind, if it is theirs."""
    usual = usual_latent_format(config)
    return usual if replace(usual, preview=None) == latent_format else latent_format


def optional_parts(config: UNetConfig) -> dict[str, Any]:
    """Entries of `model_index.json` for what a model is run without: safety checker, depth estimator, watermark."""
    none: list[None] = [None, None]
    if is_xl(config):
        own = {"requires_aesthetics_score": True} if config.size_count == 5 else {}
        return {"image_encoder": none, "feature_extractor": none, **own}
    if kind_of(config) == DEPTH:
        return {"depth_estimator": none, "feature_extractor": none}
    if kind_of(config) == UPSCALING:
        return {"safety_checker": none, "feature_extractor": none, "watermarker": none}
    return {
        "feature_extractor": none,
        "safety_checker": none,
        "image_encoder": none,
        "requires_safety_checker": False,
    }
