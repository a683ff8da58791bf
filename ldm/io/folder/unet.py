"""diffusers' `config.json` of a U-Net <-> our config."""

from collections.abc import Mapping
from typing import Any

from ldm.io.disk.files import ModelFileError
from ldm.io.folder.config_fields import DIFFUSERS_VERSION, check_fields
from ldm.io.folder.field_types import UNET_TYPES
from ldm.networks.unet.config import UNetConfig

_CROSS_DOWN, _PLAIN_DOWN = "CrossAttnDownBlock2D", "DownBlock2D"
_CROSS_UP, _PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"
_CROSS_MID, _PLAIN_MID = "UNetMidBlock2DCrossAttn", "UNetMidBlock2D"

_MOST_TRANSFORMER_LAYERS = 2_000  # Stable Diffusion XL has 70
_CLASS_TOKENS = "ldm_class_tokens"  # ours: diffusers has no such networks, and refuses their weights by their shapes
# What diffusers assumes when a translated field is absent.
_UNET_DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": [_CROSS_DOWN, _CROSS_DOWN, _CROSS_DOWN, _PLAIN_DOWN],
    "mid_block_type": _CROSS_MID,
    "up_block_types": [_PLAIN_UP, _CROSS_UP, _CROSS_UP, _CROSS_UP],
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "cross_attention_dim": 1280,
    "transformer_layers_per_block": 1,
    "attention_head_dim": 8,
    "use_linear_projection": False,
    "only_cross_attention": False,
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "num_class_embeds": None,
    _CLASS_TOKENS: False,
    "projection_class_embeddings_input_dim": None,
}
# Fields with only one meaning here: the values that mean it. The first is diffusers' default.
_UNET_FIXED: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1,),
    "dropout": (0.0,),
    "act_fn": ("silu",),
    "norm_eps": (1e-5,),
    "reverse_transformer_layers_per_block": (None,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "num_attention_heads": (None,),
    "dual_cross_attention": (False,),
    "class_embed_type": (None,),
    "upcast_attention": (False, True, None),  # rounding only: our attention always sums in fp32
    "resnet_time_scale_shift": ("default",),
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1.0,),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "attention_type": ("default",),
    "class_embeddings_concat": (False,),
    "mid_block_only_cross_attention": (None, False),
    "cross_attention_norm": (None,),
    "addition_embed_type_num_heads": (64,),
}


def unet_config(fields: Mapping[str, Any], where: str) -> tuple[UNetConfig, tuple[int, int] | None]:
    """`UNet2DConditionModel` fields -> our config and the latent size (h, w) that the model was trained at, if stated.

    diffusers' `attention_head_dim` counts heads in this class (its own source says so); it becomes `num_heads`.
    Raises ModelFileError naming the field and `where`.
    """
    f = check_fields(fields, _UNET_DEFAULTS, _UNET_FIXED, UNET_TYPES, where)
    down, levels = list(f["down_block_types"]), len(f["block_out_channels"])
    depths = _per_level(f, "transformer_layers_per_block", levels, where)
    for name, known in (("down_block_types", (_CROSS_DOWN, _PLAIN_DOWN)), ("up_block_types", (_CROSS_UP, _PLAIN_UP))):
        if len(f[name]) != levels or not set(f[name]) <= set(known):
            raise ModelFileError(
                f"{where}: {name}={f[name]} is not supported; only {levels} of {' and '.join(known)} are"
            )
    if [block == _CROSS_UP for block in f["up_block_types"]] != [block == _CROSS_DOWN for block in reversed(down)]:
        raise ModelFileError(f"{where}: up_block_types={f['up_block_types']} do not mirror down_block_types={down}")
    if f["mid_block_type"] not in (_CROSS_MID, _PLAIN_MID):
        raise ModelFileError(
            f"{where}: mid_block_type={f['mid_block_type']!r} is not supported; only {_CROSS_MID} and {_PLAIN_MID} are"
        )
    blocks = _same_everywhere(f, "layers_per_block", levels, where)
    context = _same_everywhere(f, "cross_attention_dim", levels, where)
    pooled, size_dim, size_count = _additional(f, where)
    only_cross = f["only_cross_attention"]
    if isinstance(only_cross, bool):
        if only_cross:  # the middle would be too, which only files of other models have
            raise ModelFileError(f"{where}: only_cross_attention=True is not supported; only False or one per level is")
        only_cross = (False,) * levels
    if len(only_cross) != levels:
        raise ModelFileError(f"{where}: only_cross_attention={only_cross} has not {levels} entries, one per level")
    mid_depth = depths[-1] if f["mid_block_type"] == _CROSS_MID else 0
    depths = tuple(depth if block == _CROSS_DOWN else 0 for depth, block in zip(depths, down, strict=True))
    only_cross = tuple(bool(only and depth) for only, depth in zip(only_cross, depths, strict=True))
    if (number := (2 * blocks + 1) * sum(depths) + mid_depth) > _MOST_TRANSFORMER_LAYERS:
        raise ModelFileError(
            f"{where}: transformer_layers_per_block={f['transformer_layers_per_block']} with layers_per_block={blocks}"
            f" makes {number:,} layers; at most {_MOST_TRANSFORMER_LAYERS:,} are supported"
        )
    try:
        config = UNetConfig(
            in_channels=f["in_channels"],
            out_channels=f["out_channels"],
            widths=tuple(f["block_out_channels"]),
            blocks_per_level=blocks,
            transformer_layers=depths,
            mid_transformer_layers=mid_depth,
            num_heads=_per_level(f, "attention_head_dim", levels, where),
            context_dim=context if any((*depths, mid_depth)) else None,
            linear_projection=f["use_linear_projection"],
            num_classes=f["num_class_embeds"],
            class_tokens=f[_CLASS_TOKENS],
            norm_groups=f["norm_num_groups"],
            pooled_dim=pooled,
            size_embedding_dim=size_dim,
            size_count=size_count,
            only_cross_attention=only_cross if any(only_cross) else (),
        )
    except ValueError as error:
        raise ModelFileError(f"{where}: {error}") from None
    size = f["sample_size"]
    return config, (size, size) if isinstance(size, int) else tuple(size) if size else None


def unet_fields(config: UNetConfig, size: tuple[int, int] | None) -> dict[str, Any]:
    """The inverse of `unet_config`: every field that diffusers needs to build the same network.

    Raises ValueError for a shape that diffusers has no words for.
    """
    last, mid = config.transformer_layers[-1], config.mid_transformer_layers
    if last and mid and last != mid:
        raise ValueError(
            f"mid_transformer_layers={mid} differs from transformer_layers[-1]={last}; diffusers has one for both"
        )
    depths = [depth or 1 for depth in config.transformer_layers]
    depths[-1] = mid or depths[-1]
    fields: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        **_UNET_DEFAULTS,
        **{name: values[0] for name, values in _UNET_FIXED.items()},
        "sample_size": None if size is None else size[0] if size[0] == size[1] else list(size),
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "down_block_types": [_CROSS_DOWN if depth else _PLAIN_DOWN for depth in config.transformer_layers],
        "mid_block_type": _CROSS_MID if mid else _PLAIN_MID,
        "up_block_types": [_CROSS_UP if depth else _PLAIN_UP for depth in reversed(config.transformer_layers)],
        "block_out_channels": list(config.widths),
        "layers_per_block": config.blocks_per_level,
        "norm_num_groups": config.norm_groups,
        "transformer_layers_per_block": depths[0] if len(set(depths)) == 1 else depths,
        "attention_head_dim": config.num_heads[0] if len(set(config.num_heads)) == 1 else list(config.num_heads),
        "use_linear_projection": config.linear_projection,
        "num_class_embeds": config.num_classes,
        "only_cross_attention": list(config.only_cross_attention) or False,
    }
    if config.context_dim is not None:
        fields["cross_attention_dim"] = config.context_dim
    if config.class_tokens:
        fields[_CLASS_TOKENS] = True
    else:
        del fields[_CLASS_TOKENS]
    if config.vector_dim is not None:
        fields["addition_embed_type"] = "text_time"
        fields["addition_time_embed_dim"] = config.size_embedding_dim
        fields["projection_class_embeddings_input_dim"] = config.vector_dim
    return fields


def _per_level(fields: Mapping[str, Any], name: str, levels: int, where: str) -> tuple[int, ...]:
    value = fields[name]
    values = (value,) * levels if isinstance(value, int) else tuple(value)
    if len(values) != levels or not all(isinstance(entry, int) for entry in values):
        raise ModelFileError(f"{where}: {name}={value} is not supported; only one whole number, or one per level, is")
    return values


def _same_everywhere(fields: Mapping[str, Any], name: str, levels: int, where: str) -> int:
    values = _per_level(fields, name, levels, where)
    if len(set(values)) != 1:
        raise ModelFileError(
            f"{where}: {name}={fields[name]} differs between levels; only one number for all is supported"
        )
    return values[0]


def _additional(fields: Mapping[str, Any], where: str) -> tuple[int | None, int | None, int]:
    """SDXL's pooled width, sinusoid width and number of sinusoids, from diffusers' sum of them.

    There are six sinusoids, in the refiner five. Its one text encoder gives tokens and pooled text of the same width,
    which tells it: nothing in diffusers' file does.
    """
    kind, size_dim = fields["addition_embed_type"], fields["addition_time_embed_dim"]
    total = fields["projection_class_embeddings_input_dim"]
    if kind is None:
        if total is not None:
            raise ModelFileError(f"{where}: projection_class_embeddings_input_dim={total} without addition_embed_type")
        return None, None, 6
    count = 5 if total and size_dim and total - 5 * size_dim == fields["cross_attention_dim"] else 6
    if kind != "text_time" or size_dim is None or total is None or total <= count * size_dim:
        raise ModelFileError(
            f"{where}: addition_embed_type={kind!r} with addition_time_embed_dim={size_dim} and "
            f"projection_class_embeddings_input_dim={total} is not supported; only 'text_time' with all three is"
        )
    return total - count * size_dim, size_dim, count
