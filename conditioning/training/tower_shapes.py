"""Text towers of another shape that say the same: longer, shorter, with finer image tokens, wider."""

import copy
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from conditioning.clip.clip_text import ClipText
from conditioning.clip.transformer import ClipTextLayer, ClipTextModel


def lengthened(text: ClipText, tokens: int) -> ClipText:
    """A copy of a text tower that reads `tokens` more; the states of what it read before are the same.

    The new positions are copies of the last one, the tower being causal. The copy can be trained.
    """
    tokenizer, model = copy.copy(text.tokenizer), copy.deepcopy(text.model)
    length = min(tokenizer.model_max_length, model.config.max_position_embeddings)
    embeddings = model.embeddings
    table = embeddings.position_embedding.weight.detach()[:length]
    longer = torch.cat([table, table[-1:].expand(tokens, -1)]).clone()
    embeddings.position_embedding = nn.Embedding.from_pretrained(longer, freeze=False)
    tokenizer.model_max_length = length + tokens
    model.config = replace(model.config, max_position_embeddings=length + tokens)
    return ClipText(tokenizer, model.train().requires_grad_(True), text.penultimate)


def refined(text: ClipText, former: int, cells: int) -> ClipText:
    """A copy of a tower whose context ends in former x former image tokens, with cells x cells of them.

    Each begins at the position of the one that it is a part of; the states of the words are the same, the tower being
    causal. `cells` is a multiple of `former`.
    """
    longer = lengthened(text, cells**2 - former**2)
    table = longer.model.embeddings.position_embedding.weight
    words = len(table) - cells**2
    coarse = table[words : words + former**2].unflatten(0, (former, former))
    parts = cells // former
    with torch.no_grad():
        table[words:] = coarse.repeat_interleave(parts, 0).repeat_interleave(parts, 1).flatten(0, 1)
    longer.model.requires_grad_(False)
    return longer


def shortened(text: ClipText, tokens: int) -> ClipText:
    """A copy of a text tower that reads `tokens` less; the states of what it still reads are the same.

    Raises:
        ValueError: it would read no word.
    """
    tokenizer, model = copy.copy(text.tokenizer), copy.deepcopy(text.model)
    length = min(tokenizer.model_max_length, model.config.max_position_embeddings) - tokens
    if length < 3:  # BOS, a word and EOS
        raise ValueError(
            f"initial: a tower that reads {text.max_tokens} tokens has no room for {tokens} image tokens; where it has "
            "fewer of them, name the tower without any with text="
        )
    table = model.embeddings.position_embedding.weight.detach()[:length]
    model.embeddings.position_embedding = nn.Embedding.from_pretrained(table.clone())
    tokenizer.model_max_length = length
    model.config = replace(model.config, max_position_embeddings=length)
    return ClipText(tokenizer, model, text.penultimate)


def widen(model: ClipTextModel, inner: int) -> None:
    """Give the feed-forward layers of a text tower `inner` numbers, in place; it says the same until it is trained.

    What is new begins with random inputs, drawn from the global generator, and weights of 0 at its outputs (Chen et
    al. 2016, "Net2Net", arXiv:1511.05641, keeps the function in another way).

    Raises:
        ValueError: the layers have more than `inner`.
    """
    config = model.config
    more = inner - config.intermediate_size
    if more < 0:
        raise ValueError(
            f"image_tokens.feed_forward={inner} is less than the tower's {config.intermediate_size}; use 0"
        )
    for layer in model.encoder.layers:
        assert isinstance(layer, ClipTextLayer)
        into, out = layer.mlp.fc1, layer.mlp.fc2
        fresh = nn.Linear(config.hidden_size, more)
        layer.mlp.fc1, layer.mlp.fc2 = nn.Linear(config.hidden_size, inner), nn.Linear(inner, config.hidden_size)
        with torch.no_grad():
            layer.mlp.fc1.weight.copy_(torch.cat([into.weight, fresh.weight]))
            layer.mlp.fc1.bias.copy_(torch.cat([into.bias, fresh.bias]))
            layer.mlp.fc2.weight.copy_(F.pad(out.weight, (0, more)))
            layer.mlp.fc2.bias.copy_(out.bias)
    model.config = replace(config, intermediate_size=inner)
