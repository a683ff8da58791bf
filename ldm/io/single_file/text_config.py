"""Text encoders of single files: our `TextConfig` <-> `text_encoder/config.json`, and the model itself."""

from collections.abc import Mapping
from typing import Any

import torch

from conditioning.clip.tokenizer import ClipTokenizer
from conditioning.clip.transformer import ClipTextConfig, ClipTextModel
from conditioning.clip.vocabulary import clip_tokenizer
from ldm.io.keys.text_keys import in_memory_names
from ldm.io.single_file.shapes import TextConfig
from ldm.io.tensors.load_weights import FILE_PLAN, load_weights, on_meta
from ldm.io.tensors.weights import Weights

_REMARKS = (
    "architectures",
    "model_type",
    "dtype",
    "projection_dim",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "attention_dropout",
    "initializer_range",
    "initializer_factor",
)


def text_fields(config: TextConfig) -> dict[str, Any]:
    """`config.json` of a text encoder, with the ids of all published ones; 2 selects the old way of finding EOS."""
    return _clip_config(config).to_fields(config.projection is not None)


def differences(config: TextConfig, fields: Mapping[str, Any]) -> list[str]:
    """Fields of a `config.json` that a single file could not bring back, as `name=value, not value`."""
    return [
        f"{name}={fields[name]!r}, not {value!r}"
        for name, value in text_fields(config).items()
        if name not in _REMARKS and fields.get(name, value) != value
    ]


def build_text(config: TextConfig, weights: Weights, where: str, dtype: torch.dtype) -> ClipTextModel:
    """The model, with a projection where the config has one.

    Args:
        config: of the text encoder.
        weights: with `text_model.` in their names.
        where: the file, for errors.
        dtype: of the weights in memory.

    Raises:
        ModelFileError: weights that do not fit.
    """
    return load_weights(lambda: _new(config), in_memory_names(weights), where, dtype, FILE_PLAN)


def text_meta(config: TextConfig) -> ClipTextModel:
    """The model without numbers."""
    return on_meta(lambda: _new(config))


def build_tokenizer(config: TextConfig) -> ClipTokenizer:
    """The tokenizer that belongs to a text encoder."""
    return clip_tokenizer(config.pad_token, config.length)


def _new(config: TextConfig) -> ClipTextModel:
    return ClipTextModel(_clip_config(config), config.projection is not None)


def _clip_config(config: TextConfig) -> ClipTextConfig:
    return ClipTextConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        intermediate_size=config.inner,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        max_position_embeddings=config.length,
        hidden_act=config.activation,
        projection_dim=config.projection or config.width,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
