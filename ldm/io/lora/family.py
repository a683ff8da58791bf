"""Which kind of model an adapter was made for, from the names and widths of its layers."""

import re
from collections.abc import Mapping

from ldm.adapters.lora.deltas import Decomposed, Delta

_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
"""Widths of the tokens that a U-Net reads."""
# Parts of names that only such models have, dots written as underscores. The first that fits counts.
_NAMES = tuple(
    (re.compile(pattern), what)
    for pattern, what in (
        (r"single_transformer_blocks_\d|single_blocks_\d+_(linear|modulation)|double_blocks_\d+_(img|txt)_", "FLUX"),
        (r"transformer_blocks_\d+_(img|txt)_(mlp|mod)_", "Qwen-Image"),
        (r"joint_blocks_\d|transformer_blocks_\d+_attn_add_[qkv]_proj", "Stable Diffusion 3"),
        (r"(double|single)_layers_\d+_attn_", "AuraFlow"),
        (r"layers_\d+_(attention_(qkv|to_[qkv]|out)|feed_forward_w[123])", "Lumina or Z-Image"),
        (r"blocks_\d+_cross_attn_(kv|q)_linear|(^|_)transformer_transformer_blocks_\d+_attn[12]_", "PixArt"),
        (r"(?<!er_)blocks_\d+_(self|cross)_attn_[qkvo]", "Wan"),
        (r"(^|_)te2_|text_encoder_2_", "Stable Diffusion XL"),
        (r"(mid_block_attentions_0|middle_block_1)_transformer_blocks_[1-9]", "Stable Diffusion XL"),
        (r"(down_blocks_3|up_blocks_3|input_blocks_1[01]|output_blocks_1[01])_", "Stable Diffusion 1.x or 2.x"),
        (r"lora_te_text_model_encoder_layers_11_", "Stable Diffusion 1.x"),
    )
)


def made_for(deltas: Mapping[str, Delta]) -> str:
    """The kind of model whose layers these are, by the file's names; empty where nothing tells.

    Args:
        deltas: by the layer's name in the file, factors that fit each other or not.
    """
    names = {stem: stem.replace(".", "_") for stem in deltas}
    for stem, name in names.items():
        if name.endswith("attn2_to_k") and (title := _WIDTHS.get(_inputs(deltas[stem]))):
            return title
    return next((what for pattern, what in _NAMES if any(pattern.search(name) for name in names.values())), "")


def _inputs(delta: Delta) -> int:
    try:
        shape = (delta.delta if isinstance(delta, Decomposed) else delta).product("meta").shape
    except RuntimeError:
        return 0
    return shape[1] if len(shape) > 1 else 0
