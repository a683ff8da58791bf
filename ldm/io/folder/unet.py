"""diffusers' `config.json` <-> our configs. Whatever we cannot run exactly is refused by field name, never ignored."""

from collections.abc import Mapping
from typing import Any

from autoencoder.config import AutoencoderConfig
from autoencoder.latent_format import LatentFormat
from ldm.io.disk.files import ModelFileError
from ldm.networks.unet.config import UNetConfig

DIFFUSERS_VERSION = "0.36.0"  # whose fields we write; newer ones only add fields with defaults

_CROSS_DOWN, _PLAIN_DOWN = "CrossAttnDownBlock2D", "DownBlock2D"
_CROSS_UP, _PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"
_CROSS_MID, _PLAIN_MID = "UNetMidBlock2DCrossAttn", "UNetMidBlock2D"

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
_AUTOENCODER_DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "block_out_channels": [64],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
_DOWN_LEVELS = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")
_UP_LEVELS = ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")
# What VQModel assumes beside or in place of it.
_VQ_DEFAULTS: dict[str, Any] = {"latent_channels": 3, "num_vq_embeddings": 256, "vq_embed_dim": None}
_VQ_FIXED: dict[str, tuple[Any, ...]] = {"norm_type": ("group",), "lookup_from_codebook": (False, True)}
_AUTOENCODER_FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
}
# Facts about how a model was made or run that change no number here.
_AUTOENCODER_REMARKS = ("sample_size", "force_upcast")


def _check(
    fields: Mapping[str, Any],
    defaults: Mapping[str, Any],
    fixed: Mapping[str, tuple[Any, ...]],
    where: str,
    remarks: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The translated fields with defaults filled in, after checking that every other field says what we do anyway.

    Raises ModelFileError naming the field, its value and `where` (a file) for unknown fields and unsupported values.
    """
    for name, value in fields.items():
        if name.startswith("_") or name in defaults or name in remarks:
            continue
        if name not in fixed:
            raise ModelFileError(
                f"{where}: {name}={value!r} is unknown to this version, which cannot tell what it means"
            )
        if value not in fixed[name]:
            known = " or ".join(repr(known) for known in fixed[name])
            raise ModelFileError(f"{where}: {name}={value!r} is not supported; only {known} is")
    return {**defaults, **{name: fields[name] for name in defaults if name in fields}}


def unet_config(fields: Mapping[str, Any], where: str) -> tuple[UNetConfig, tuple[int, int] | None]:
    """`UNet2DConditionModel` fields -> our config and the latent size (h, w) that the model was trained at, if told.

    diffusers' `attention_head_dim` counts heads in this class (its own source says so); it becomes `num_heads`.
    Raises ModelFileError naming the field and `where`.
    """
    f = _check(fields, _UNET_DEFAULTS, _UNET_FIXED, where)
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
    mid_depth = depths[-1] if f["mid_block_type"] == _CROSS_MID else 0
    depths = tuple(depth if block == _CROSS_DOWN else 0 for depth, block in zip(depths, down, strict=True))
    only_cross = tuple(bool(only and depth) for only, depth in zip(only_cross, depths, strict=False))
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


def autoencoder_config(fields: Mapping[str, Any], where: str) -> tuple[AutoencoderConfig, LatentFormat]:
    """`AutoencoderKL` or `VQModel` fields -> our config and latent format.

    Raises ModelFileError naming the field and `where`.
    """
    quantised = fields.get("_class_name") == "VQModel"
    defaults = _AUTOENCODER_DEFAULTS | (_VQ_DEFAULTS if quantised else {})
    f = _check(fields, defaults, _AUTOENCODER_FIXED | (_VQ_FIXED if quantised else {}), where, _AUTOENCODER_REMARKS)
    attention = _attention_levels(f, where)
    for one, other in (("in_channels", "out_channels"), ("use_quant_conv", "use_post_quant_conv")):
        if f[one] != f[other]:
            raise ModelFileError(
                f"{where}: {one}={f[one]} and {other}={f[other]} differ; only equal ones are supported"
            )
    try:
        config = AutoencoderConfig(
            in_channels=f["in_channels"],
            latent_channels=f["latent_channels"],
            widths=tuple(f["block_out_channels"]),
            blocks_per_level=f["layers_per_block"],
            norm_groups=f["norm_num_groups"],
            mid_attention=f["mid_block_add_attention"],
            attention_levels=attention,
            quant_conv=f["use_quant_conv"],
            codebook_size=f["num_vq_embeddings"] if quantised else 0,
            codebook_dim=(f["vq_embed_dim"] or 0) if quantised else 0,
        )
    except ValueError as error:
        raise ModelFileError(f"{where}: {error}") from None
    mean, std = f["latents_mean"], f["latents_std"]
    if (mean, std) != (None, None) and not all(
        isinstance(values, list | tuple) and len(values) == config.latent_channels for values in (mean, std)
    ):
        raise ModelFileError(
            f"{where}: latents_mean={mean} with latents_std={std} is not supported; "
            f"only both together, with {config.latent_channels} numbers each, are"
        )
    return config, LatentFormat(
        scale=f["scaling_factor"],
        shift=f["shift_factor"] or 0.0,
        channels=config.code_channels,
        factor=config.factor,
        mean=None if mean is None else tuple(map(float, mean)),
        std=None if std is None else tuple(map(float, std)),
    )


def _attention_levels(fields: Mapping[str, Any], where: str) -> tuple[int, ...]:
    """The levels, finest first, whose blocks have attention in encoder and decoder alike."""
    levels = len(fields["block_out_channels"])
    for name, known in (("down_block_types", _DOWN_LEVELS), ("up_block_types", _UP_LEVELS)):
        if len(fields[name]) != levels or not set(fields[name]) <= set(known):
            raise ModelFileError(
                f"{where}: {name}={fields[name]} is not supported; only {levels} of {' and '.join(known)} are"
            )
    down = [kind == _DOWN_LEVELS[1] for kind in fields["down_block_types"]]
    if down != [kind == _UP_LEVELS[1] for kind in reversed(fields["up_block_types"])]:
        raise ModelFileError(
            f"{where}: up_block_types={fields['up_block_types']} do not mirror "
            f"down_block_types={fields['down_block_types']}"
        )
    return tuple(level for level, has_attention in enumerate(down) if has_attention)


def modern_autoencoder_name(name: str) -> str:
    """A parameter name of an `AutoencoderKL` saved before diffusers 0.17 (as SD 1.5's is) -> today's name."""
    for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
        name = name.replace(f".attentions.0.{old}.", f".attentions.0.{new}.")
    return name


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
