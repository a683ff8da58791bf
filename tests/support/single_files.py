"""Tiny models of every family, made by diffusers and transformers, and the published single-file layout of any model.

The layout is written from formulas (where block n of level l stands), independently of `ldm.io.single_file`;
`test_single_file_layout.py` lets diffusers read it back.
"""

from typing import Any

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
VOCABULARY = 49408

# `UNet2DConditionModel` of the published models; what is left out is the class's default.
_SD = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
_SD2 = {**_SD, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
PUBLISHED: dict[str, dict[str, Any]] = {
    "sd1": {**_SD, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": _SD2,
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "sdxl-refiner": {
        "block_out_channels": (384, 768, 1536, 1536),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": 4,
        "attention_head_dim": (6, 12, 24, 24),
        "cross_attention_dim": 1280,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2560,
    },
    "x4-upscaler": {
        "in_channels": 7,
        "block_out_channels": (256, 512, 512, 1024),
        "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 3,
        "up_block_types": ("CrossAttnUpBlock2D",) * 3 + ("UpBlock2D",),
        "only_cross_attention": (True, True, True, False),
        "attention_head_dim": 8,
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
        "num_class_embeds": 1000,
    },
}
# The same with narrow layers and one block a level. Text encoders are 64 wide, and so are their projections; the
# upscaler is nowhere as wide as its tokens where it has cross-attention only, which shows by its shape.
TINY: dict[str, dict[str, Any]] = {
    "sd1": {"block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 64},
    "sd2": {"block_out_channels": (64, 64, 128, 128), "attention_head_dim": (1, 1, 2, 2), "cross_attention_dim": 64},
    "sdxl": {
        "block_out_channels": (64, 64, 128),
        "transformer_layers_per_block": (1, 1, 2),
        "attention_head_dim": (1, 1, 2),
        "cross_attention_dim": 128,
        "projection_class_embeddings_input_dim": 64 + 6 * 256,
    },
    "sdxl-refiner": {
        "block_out_channels": (64, 64, 128, 128),
        "transformer_layers_per_block": 2,
        "attention_head_dim": (1, 1, 2, 2),
        "cross_attention_dim": 64,
        "projection_class_embeddings_input_dim": 64 + 5 * 256,
    },
    "x4-upscaler": {"block_out_channels": (32, 96, 96, 128), "cross_attention_dim": 64, "num_class_embeds": 10},
}
VAE_LEVELS = {"x4-upscaler": 3}


def unet_kwargs(family: str, tiny: bool, in_channels: int | None = None) -> dict[str, Any]:
    """Arguments of `UNet2DConditionModel`."""
    kwargs = {**PUBLISHED[family], **({"layers_per_block": 1, **TINY[family]} if tiny else {})}
    return kwargs if in_channels is None else {**kwargs, "in_channels": in_channels}


def make_unet(family: str, tiny: bool = True, in_channels: int | None = None) -> nn.Module:
    """diffusers' U-Net of a family; tiny ones have random weights that show in the output."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(1)
    with torch.device("cpu" if tiny else "meta"):
        return UNet2DConditionModel(**unet_kwargs(family, tiny, in_channels)).eval()


def make_vae(family: str, tiny: bool = True) -> nn.Module:
    """diffusers' autoencoder of a family."""
    from diffusers import AutoencoderKL

    levels = VAE_LEVELS.get(family, 4)
    widths = ((32, 32, 64, 64) if tiny else (128, 256, 512, 512))[:levels]
    torch.manual_seed(2)
    with torch.device("cpu" if tiny else "meta"):
        return AutoencoderKL(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=1 if tiny else 2,
        ).eval()


def make_text(layers: int, width: int = 64, act: str = "quick_gelu", projected: bool = False, tiny: bool = True) -> Any:
    """A transformers CLIP text encoder of 64 channels a head."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(layers)
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=77,
        hidden_act=act,
        projection_dim=width,
        bos_token_id=0,
        eos_token_id=2,
    )
    with torch.device("cpu" if tiny else "meta"):
        return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def disk_names(text: nn.Module) -> State:
    """A text encoder's state as files have it, with `text_model.`."""
    state = {name: value for name, value in text.state_dict().items() if not name.endswith("position_ids")}
    return {
        name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}": value
        for name, value in state.items()
    }


def file_unet(state: State, levels: int, blocks: int, attention: tuple[bool, ...]) -> State:
    """A U-Net's state in the layout of `model.diffusion_model.`."""
    places = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "class_embedding": "label_emb",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    for level in range(levels):
        for block in range(blocks):
            number = 1 + level * (blocks + 1) + block
            places[f"down_blocks.{level}.resnets.{block}"] = f"input_blocks.{number}.0"
            places[f"down_blocks.{level}.attentions.{block}"] = f"input_blocks.{number}.1"
        places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{(level + 1) * (blocks + 1)}.0.op"
        for block in range(blocks + 1):
            number = level * (blocks + 1) + block
            places[f"up_blocks.{level}.resnets.{block}"] = f"output_blocks.{number}.0"
            places[f"up_blocks.{level}.attentions.{block}"] = f"output_blocks.{number}.1"
        behind = 2 if attention[levels - 1 - level] else 1
        places[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{level * (blocks + 1) + blocks}.{behind}.conv"
    leaves = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    written = {}
    for name, value in state.items():
        module = max((place for place in places if name.startswith(f"{place}.")), key=len)
        rest = name[len(module) + 1 :]
        if ".resnets." in module:
            leaf, ending = rest.split(".")
            rest = f"{leaves[leaf]}.{ending}"
        written[f"{places[module]}.{rest}"] = value
    return written


def file_vae(state: State, levels: int) -> State:
    """An autoencoder's state in the layout of `first_stage_model.`."""
    written = {}
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    for name, value in state.items():
        new = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        new = new.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        for level in range(levels):
            new = new.replace(f"down_blocks.{level}.resnets.", f"down.{level}.block.")
            new = new.replace(f"down_blocks.{level}.downsamplers.0.", f"down.{level}.downsample.")
            new = new.replace(f"up_blocks.{level}.resnets.", f"up.{levels - 1 - level}.block.")
            new = new.replace(f"up_blocks.{level}.upsamplers.0.", f"up.{levels - 1 - level}.upsample.")
        if "mid_block.attentions.0" in new:
            half, leaf = new.split(".mid_block.attentions.0.")
            module, ending = leaf.rsplit(".", 1)
            new = f"{half}.mid.attn_1.{attention[module]}.{ending}"
            value = value[:, :, None, None] if value.ndim == 2 else value
        written[new] = value
    return written


def file_open_clip(state: State, layers: int) -> State:
    """A text encoder's state (names of files) in OpenCLIP's layout, with what OpenCLIP saves beside it."""
    top = {
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "ln_final.weight": state["text_model.final_layer_norm.weight"],
        "ln_final.bias": state["text_model.final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
    }
    if "text_projection.weight" in state:
        top["text_projection"] = state["text_projection.weight"].T.contiguous()
    for i in range(layers):
        old, new = f"text_model.encoder.layers.{i}", f"transformer.resblocks.{i}"
        for end in ("weight", "bias"):
            parts = [state[f"{old}.self_attn.{part}_proj.{end}"] for part in "qkv"]
            top[f"{new}.attn.in_proj_{end}"] = torch.cat(parts)
            top[f"{new}.attn.out_proj.{end}"] = state[f"{old}.self_attn.out_proj.{end}"]
            top[f"{new}.ln_1.{end}"] = state[f"{old}.layer_norm1.{end}"]
            top[f"{new}.ln_2.{end}"] = state[f"{old}.layer_norm2.{end}"]
            top[f"{new}.mlp.c_fc.{end}"] = state[f"{old}.mlp.fc1.{end}"]
            top[f"{new}.mlp.c_proj.{end}"] = state[f"{old}.mlp.fc2.{end}"]
    return top


def prefixed(prefix: str, state: State) -> State:
    """The state behind a prefix."""
    return {prefix + name: value for name, value in state.items()}


def unet_part(family: str, unet: nn.Module) -> State:
    """`file_unet` of a model of a family."""
    config: Any = unet.config
    attention = tuple("CrossAttn" in kind for kind in config.down_block_types)
    return file_unet(dict(unet.state_dict()), len(attention), config.layers_per_block, attention)


def text_parts(family: str, texts: list[Any]) -> State:
    """The text encoders of a family with their prefixes. texts: whole towers, SD 2's with the layer that is not run."""
    if family == "sd1":
        return prefixed("cond_stage_model.transformer.", disk_names(texts[0]))
    opened = file_open_clip(disk_names(texts[-1]), texts[-1].config.num_hidden_layers)
    if family in ("sd2", "x4-upscaler"):
        return prefixed("cond_stage_model.model.", opened)
    if family == "sdxl-refiner":
        return prefixed("conditioner.embedders.0.model.", opened)
    first = prefixed("conditioner.embedders.0.transformer.", disk_names(texts[0]))
    return first | prefixed("conditioner.embedders.1.model.", opened)


def make_texts(family: str, tiny: bool = True) -> list[Any]:
    """The text encoders of a family, SD 2's as the whole tower that it was trained as."""
    if family == "sd1":
        return [make_text(2)] if tiny else [make_text(12, 768, tiny=False)]
    if family in ("sd2", "x4-upscaler"):
        return [make_text(3, 64, "gelu", True)] if tiny else [make_text(24, 1024, "gelu", True, False)]
    second = make_text(3, 64, "gelu", True) if tiny else make_text(32, 1280, "gelu", True, False)
    if family == "sdxl-refiner":
        return [second]
    return [make_text(2) if tiny else make_text(12, 768, tiny=False), second]


def whole_file(family: str, tiny: bool = True, in_channels: int | None = None) -> tuple[State, dict[str, Any]]:
    """A model as its single file's state, and the networks that it was made of."""
    unet, vae, texts = make_unet(family, tiny, in_channels), make_vae(family, tiny), make_texts(family, tiny)
    state = prefixed("model.diffusion_model.", unet_part(family, unet))
    state |= prefixed("first_stage_model.", file_vae(dict(vae.state_dict()), VAE_LEVELS.get(family, 4)))
    state |= text_parts(family, texts)
    return {name: value.contiguous() for name, value in state.items()}, {"unet": unet, "vae": vae, "texts": texts}
