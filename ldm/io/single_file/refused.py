"""Files that are something else: recognised by a key that only they have, and refused by name with what does work."""

from collections.abc import Collection

from ldm.io.disk.files import ModelFileError

_WORKS = "Stable Diffusion 1.x, 2.x and XL checkpoints open"
_AS_LORA = "open a checkpoint first and give this file to load_lora"
_AS_PROMPT = "open a checkpoint first; this file adds words to its prompts"
_PLAIN = "use the fp16 .safetensors of the same model"

# A part of a key that only such files have -> what they are, what works instead. The first that fits counts.
_KINDS: tuple[tuple[str, str, str], ...] = (
    (".lora_up.weight", "a LoRA", _AS_LORA),
    (".lora_down.weight", "a LoRA", _AS_LORA),
    (".lora_A.weight", "a LoRA", _AS_LORA),
    (".lora.up.weight", "a LoRA", _AS_LORA),
    (".hada_w1_a", "a LoRA (LoHa)", _AS_LORA),
    (".lokr_w", "a LoRA (LoKr)", _AS_LORA),
    ("string_to_param", "a textual-inversion embedding", _AS_PROMPT),
    ("emb_params", "a textual-inversion embedding", _AS_PROMPT),
    ("ip_adapter.", "an IP-Adapter", _WORKS),
    ("image_proj.", "an IP-Adapter", _WORKS),
    ("control_model.", "a ControlNet", _WORKS),
    ("controlnet_cond_embedding.", "a ControlNet", _WORKS),
    ("input_hint_block.", "a ControlNet", _WORKS),
    ("motion_modules.", "an AnimateDiff motion module", _WORKS),
    (".time_mixer.mix_factor", "Stable Video Diffusion", _WORKS),
    ("double_blocks.0.img_attn.", "FLUX, or a model built like it", _WORKS),
    ("single_transformer_blocks.0.attn.", "FLUX in diffusers' names", _WORKS),
    ("single_stream_modulation.", "FLUX.2", _WORKS),
    ("distilled_guidance_layer.", "Chroma", _WORKS),
    ("joint_blocks.0.", "Stable Diffusion 3", _WORKS),
    ("transformer_blocks.0.norm1_context.linear.", "Stable Diffusion 3 in diffusers' names", _WORKS),
    ("double_layers.0.attn.w1q.", "AuraFlow", _WORKS),
    ("clip_txt_mapper.", "Stable Cascade", _WORKS),
    (".channelwise.0.weight", "Stable Cascade", _WORKS),
    ("cap_embedder.", "Lumina", _WORKS),
    ("txt_in.text_norm.", "Qwen-Image", _WORKS),
    ("txt_in.individual_token_refiner.", "Hunyuan Video", _WORKS),
    ("mlp_t5.", "Hunyuan-DiT", _WORKS),
    ("patchify_proj.", "LTX-Video", _WORKS),
    ("head.modulation", "Wan", _WORKS),
    ("blocks.0.attn.qkv_x.", "Mochi", _WORKS),
    ("adaln_single.emb.", "PixArt", _WORKS),
    ("t_block.1.weight", "PixArt", _WORKS),
    ("edm_mean", "Playground v2.5, whose latents have a mean and a spread of their own", _WORKS),
    ("edm_vpred.sigma_max", "CosXL, which works with the noise levels of EDM", "the plain SDXL checkpoint works"),
    ("cc_projection.", "Zero123, which is conditioned on a camera", _WORKS),
    ("embedder.model.visual.", "Stable unCLIP, which is conditioned on a picture", "the plain SD 2.1 checkpoint works"),
    ("noise_augmentor.", "Stable unCLIP, which is conditioned on a picture", "the plain SD 2.1 checkpoint works"),
    ("time_embed.cond_proj.", "a latent consistency model, conditioned on its guidance", "its LCM-LoRA works"),
    (
        "time_embedding.cond_proj.",
        "a latent consistency model, conditioned on its guidance",
        "its LCM-LoRA works",
    ),
    (
        "scaled_fp8",
        "fp8 with a scale for each weight (ComfyUI)",
        "use the plain fp8 or fp16 .safetensors of this model",
    ),
    (
        ".scale_weight",
        "fp8 with a scale for each weight (ComfyUI)",
        "use the plain fp8 or fp16 .safetensors of this model",
    ),
    (".absmax", "weights packed to 4 or 8 bits by bitsandbytes", _PLAIN),
    (".qweight", "weights packed to few bits (GPTQ or AWQ)", _PLAIN),
)
# Parts of a model alone. A prefix of names -> what it is, where it belongs.
_PARTS: tuple[tuple[str, str, str], ...] = (
    ("decoder.up.", "an autoencoder alone", "a whole checkpoint has it inside"),
    (
        "decoder.up_blocks.",
        "an autoencoder alone",
        "put it as vae/diffusion_pytorch_model.safetensors into a model folder",
    ),
    ("text_model.", "a CLIP text encoder alone", "put it as text_encoder/model.safetensors into a model folder"),
    ("encoder.block.0.layer.0.SelfAttention.", "a T5 text encoder alone", _WORKS),
    ("model.layers.0.", "a language model", _WORKS),
    ("RRDB_trunk.", "an ESRGAN upscaler", _WORKS),
    ("vision_model.", "a CLIP image encoder or safety checker", _WORKS),
)


def refuse_others(names: Collection[str], where: str) -> None:
    """Raise ModelFileError if the names are those of a file that is known to be something else."""
    for part, what, works in _KINDS:
        if any(part in name for name in names):
            raise ModelFileError(f"{where} is {what}, which is not supported here; {works}")


def refuse_unknown(names: Collection[str], where: str) -> ModelFileError:
    """The error for a file without a U-Net: a part of a model by its name, or a few of the names that it has."""
    for start, what, works in _PARTS:
        if any(name.startswith(start) for name in names):
            return ModelFileError(f"{where} is {what}, not a whole model; {works}")
    shown = ", ".join(sorted(names)[:3]) or "nothing"
    return ModelFileError(f"{where} is no Stable Diffusion checkpoint: it holds {shown} and {len(names)} names in all")
