"""Tiny models of every Stable Diffusion family, made and saved by diffusers and transformers, and drawing with them.

Pictures are 32 px, latents 8x8; upscaled ones 32 px from 8 px.
"""

from pathlib import Path
from typing import Any

import torch
from stable_diffusion import write_tiny_tokenizer
from torch import Tensor

PROMPTS, NEGATIVE = ["a red apple", "dark sea"], "blue"
SD_TABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
_EULER = {key: value for key, value in SD_TABLE.items() if key != "clip_sample"}
_EULER |= {"timestep_spacing": "leading", "steps_offset": 1}

_UNET: dict[str, Any] = {
    "sample_size": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
}
_SD2 = {**_UNET, "attention_head_dim": (1, 2), "use_linear_projection": True}
_XL = {
    **_SD2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "cross_attention_dim": 32,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 16 + 6 * 8,
}
UNETS: dict[str, dict[str, Any]] = {
    "sd1": _UNET,
    "sd2": _SD2,
    "sd2-v": _SD2,
    "zero-snr": _UNET,
    "inpainting": {**_UNET, "in_channels": 9},
    "editing": {**_UNET, "in_channels": 8},
    "depth": {**_SD2, "in_channels": 5},
    "upscaling": {**_SD2, "in_channels": 7, "num_class_embeds": 20, "only_cross_attention": (True, False)},
    "sdxl": _XL,
    "sdxl-whitened": _XL,
    "sdxl-inpainting": {**_XL, "in_channels": 9},
    "refiner": {**_XL, "cross_attention_dim": 16, "projection_class_embeddings_input_dim": 16 + 5 * 8},
}
FAMILIES = tuple(UNETS)


def make_text(folder: Path, layers: int, act: str, projected: bool, pad: str) -> tuple[Any, Any]:
    """Tokenizer and random text encoder."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    if not folder.exists():
        write_tiny_tokenizer(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=16, pad_token=pad)
    torch.manual_seed(layers)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=16,
        hidden_act=act,
        projection_dim=16,
        bos_token_id=0,
        eos_token_id=2,  # as in all published ones: the pooled state is that of the highest id
    )
    text = (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()
    with torch.no_grad():
        text.get_input_embeddings().weight.mul_(30)
    return tokenizer, text


def make_family(name: str, folder: Path) -> Any:
    """diffusers' pipeline of a tiny random model of the family."""
    import diffusers
    from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(**UNETS[name]).eval()
    whitening = {"latents_mean": [0.3, -0.2, 0.1, 0.5], "latents_std": [1.2, 0.8, 1.1, 0.9]}
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        norm_num_groups=4,
        scaling_factor=0.7,
        **(whitening if name == "sdxl-whitened" else {}),
    ).eval()
    with torch.no_grad():  # strong enough that prompts and steps show in the picture
        unet.conv_out.weight.mul_(4)
        vae.decoder.conv_out.weight.mul_(2)
    fields: dict[str, Any] = {**SD_TABLE, "steps_offset": 1}
    if name in ("sd2-v", "zero-snr", "upscaling"):
        fields["prediction_type"] = "v_prediction"
    if name == "zero-snr":
        fields |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    parts: dict[str, Any] = {"unet": unet, "vae": vae, "scheduler": DDIMScheduler(**fields, set_alpha_to_one=False)}
    if name in ("sdxl", "sdxl-whitened"):
        parts["scheduler"] = EulerDiscreteScheduler(**_EULER)
    first = make_text(folder / "first", 3, "quick_gelu", False, "<|endoftext|>")
    second = make_text(folder / "second", 4, "gelu", name.startswith(("sdxl", "refiner")), "!")
    if name.startswith("sdxl"):
        parts |= dict(zip(("tokenizer", "text_encoder"), first, strict=True))
        parts |= dict(zip(("tokenizer_2", "text_encoder_2"), second, strict=True))
        kind = "Inpaint" if name == "sdxl-inpainting" else ""
        return getattr(diffusers, f"StableDiffusionXL{kind}Pipeline")(**parts, add_watermarker=False)
    if name == "refiner":
        parts |= dict(zip(("tokenizer_2", "text_encoder_2"), second, strict=True))
        parts |= {"tokenizer": None, "text_encoder": None, "requires_aesthetics_score": True}
        parts |= {"force_zeros_for_empty_prompt": False, "add_watermarker": False}
        return diffusers.StableDiffusionXLImg2ImgPipeline(**parts)
    own = first if name in ("sd1", "zero-snr", "inpainting", "editing") else second
    parts |= dict(zip(("tokenizer", "text_encoder"), own, strict=True))
    if name == "depth":
        return diffusers.StableDiffusionDepth2ImgPipeline(**parts, depth_estimator=None, feature_extractor=None)
    parts |= {"safety_checker": None, "feature_extractor": None}
    if name == "upscaling":
        low = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.0001, beta_end=0.02)
        return diffusers.StableDiffusionUpscalePipeline(**parts, low_res_scheduler=low, max_noise_level=15)
    kind = {"inpainting": "Inpaint", "editing": "InstructPix2Pix"}.get(name, "")
    return getattr(diffusers, f"StableDiffusion{kind}Pipeline")(**parts, requires_safety_checker=False)


def save(pipeline: Any, folder: Path, **options: Any) -> Path:
    """The folder as diffusers saves it."""
    pipeline.save_pretrained(folder, safe_serialization=True, **options)
    return folder


def draw_there(name: str, pipeline: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """diffusers' pictures (2, 3, H, W) in [0, 1], and what they begin with: (2, C, 8, 8), noise and other channels."""
    generator = torch.Generator().manual_seed(7)
    picture = torch.rand(2, 3, 32, 32, generator=generator)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    depth = torch.rand(2, 32, 32, generator=generator)
    mask = (torch.rand(2, 1, 32, 32, generator=generator) > 0.5).float()
    own: dict[str, Any] = {
        "inpainting": {"image": picture, "mask_image": mask, "latents": latents, "height": 32, "width": 32},
        "sdxl-inpainting": {"image": picture, "mask_image": mask, "latents": latents, "height": 32, "width": 32},
        "editing": {"image": picture, "latents": latents, "image_guidance_scale": 1.0},
        "depth": {"image": picture, "depth_map": depth, "strength": 1.0},
        "upscaling": {"image": picture[..., :8, :8], "latents": latents, "noise_level": 9},
        "refiner": {"image": picture, "strength": 1.0},
    }.get(name, {"latents": latents})
    if "inpainting" in name:
        own["strength"] = 1.0
    seen: list[Tensor] = []
    hook = pipeline.unet.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    pipeline.set_progress_bar_config(disable=True)
    options = {"negative_prompt": [NEGATIVE] * 2, "num_inference_steps": 4, "guidance_scale": 5.0, **options}
    images = pipeline(PROMPTS, output_type="pt", generator=generator, **own, **options).images
    hook.remove()
    # DDIM's network sees the noise itself, Euler's a scaled one.
    return images, latents if name in ("sdxl", "sdxl-whitened") else seen[0][:2]
