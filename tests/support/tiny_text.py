"""A tiny text encoder with its tokenizer."""

from tempfile import TemporaryDirectory

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from conditioning.clip.bpe import train_bpe
from conditioning.clip.clip_text import ClipText
from conditioning.clip.tokenizer import ClipTokenizer
from conditioning.clip.transformer import ClipTextConfig, ClipTextModel

CAPTIONS = ["a red apple, 3d style", "three bananas, noto style", "a fox left of a rocket", "the cat and the fox"] * 3


def own_tower(theirs: nn.Module) -> ClipTextModel:
    """Our tower with the weights of one of transformers'."""
    ours = ClipTextModel(ClipTextConfig.from_fields(theirs.config.to_dict()), hasattr(theirs, "text_projection"))
    ours.load_state_dict({name.removeprefix("text_model."): x for name, x in theirs.state_dict().items()})
    return ours.eval().requires_grad_(False)


def own_tokenizer(theirs: PreTrainedTokenizerBase) -> ClipTokenizer:
    """One of transformers', as ours."""
    with TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return ClipTokenizer.from_folder(folder)


def tiny_text(folder, room: int, **config) -> ClipText:
    """A random tower of width 16 that reads `room` tokens."""
    size = train_bpe(CAPTIONS, 620, folder, max_tokens=room)
    torch.manual_seed(0)
    fields = {"bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1} | config
    model = ClipTextModel(
        ClipTextConfig(
            vocab_size=size,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=room + 2,
            **fields,
        )
    )
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    return ClipText(ClipTokenizer.from_folder(folder), model.eval().requires_grad_(False))
