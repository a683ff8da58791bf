"""Text encoders as transformers has them: our `TextConfig` <-> `text_encoder/config.json`, and the model itself."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from conditioning.clip.vocabulary import clip_tokenizer
from ldm.io.single_file.shapes import TextConfig
from ldm.io.tensors.load_weights import FILE_PLAN, load_weights, on_meta
from ldm.io.tensors.weights import Weights

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

_PREFIX = "text_model."
_REMARKS = (
    "architectures",
    "model_type",
    "dtype",
    "projection_dim",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "attention_dropout",
)


def text_fields(config: TextConfig) -> dict[str, Any]:
    """`config.json` of a text encoder, with the ids of all published ones; 2 selects the old way of finding EOS."""
    return {
        "architectures": [_class_name(config)],
        "model_type": "clip_text_model",
        "dtype": "float32",  # transformers would open it as the file is, diffusers opens the U-Net in fp32
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.inner,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.length,
        "hidden_act": config.activation,
        "projection_dim": config.projection or config.width,
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


def differences(config: TextConfig, fields: Mapping[str, Any]) -> list[str]:
    """Fields of a `config.json` that a single file could not bring back, as `name=value, not value`."""
    return [
        f"{name}={fields[name]!r}, not {value!r}"
        for name, value in text_fields(config).items()
        if name not in _REMARKS and fields.get(name, value) != value
    ]


def build_text(config: TextConfig, weights: Weights, where: str, dtype: torch.dtype) -> nn.Module:
    """A transformers CLIPTextModel, or CLIPTextModelWithProjection where the config has one.

    Args:
        config: of the text encoder.
        weights: with `text_model.` in their names.
        where: the file, for errors.
        dtype: of the weights in memory.

    Raises:
        ModelFileError: weights that do not fit.
    """
    model = load_weights(lambda: _new(config), text_names(config, weights), where, dtype, FILE_PLAN)
    tower: Any = getattr(model, "text_model", model)
    tower.embeddings.position_ids = torch.arange(config.length).expand(1, -1)
    return model


def text_names(config: TextConfig, weights: Weights) -> Weights:
    """Weights by the names of the installed transformers, whose CLIPTextModel has no `text_model.` since 5.6."""
    if any(name.startswith(_PREFIX) for name in text_meta(config).state_dict()):
        return weights
    return {name.removeprefix(_PREFIX): weight for name, weight in weights.items()}


def text_meta(config: TextConfig) -> nn.Module:
    """The model without numbers."""
    return on_meta(lambda: _new(config))


def build_tokenizer(config: TextConfig) -> "CLIPTokenizer":
    """The tokenizer that belongs to a text encoder."""
    return clip_tokenizer(config.pad_token, config.length)


def _new(config: TextConfig) -> nn.Module:
    import transformers

    fields = {
        name: value
        for name, value in text_fields(config).items()
        if name not in ("architectures", "model_type", "dtype")
    }
    return getattr(transformers, _class_name(config))(transformers.CLIPTextConfig(**fields))


def _class_name(config: TextConfig) -> str:
    return "CLIPTextModel" if config.projection is None else "CLIPTextModelWithProjection"
