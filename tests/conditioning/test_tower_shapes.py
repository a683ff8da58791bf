"""A text tower of another shape says the same of what it read before, and what is new can be trained."""

from pathlib import Path

import pytest
import torch

from conditioning.clip.clip_text import ClipText
from conditioning.training.tower_shapes import lengthened, refined, shortened, widen
from ldm.io.folder.load import load_text

CAPTIONS = ["a red apple", "sea", "red sea"]


@pytest.fixture
def text(tiny_folder: Path) -> ClipText:
    return load_text(tiny_folder)


def test_a_longer_tower_says_the_same_of_every_token_it_read_before(text: ClipText):
    before = {name: weight.clone() for name, weight in text.model.state_dict().items()}
    longer = lengthened(text, 5)
    assert longer.max_tokens == text.max_tokens + 5
    old, new = text.encode(CAPTIONS).tokens, longer.encode(CAPTIONS).tokens
    assert new.shape[1] == old.shape[1] + 5
    torch.testing.assert_close(new[:, : old.shape[1]], old, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(weight, before[name]) for name, weight in text.model.state_dict().items())
    assert all(p.requires_grad for p in longer.model.parameters())
    assert not any(p.requires_grad for p in text.model.parameters())


def test_a_shorter_tower_says_the_same_of_every_token_it_still_reads(text: ClipText):
    shorter = shortened(text, 3)
    assert shorter.max_tokens == text.max_tokens - 3
    length = shorter.tokenizer.model_max_length
    captions = ["sea", "red sea"]
    torch.testing.assert_close(
        shorter.encode(captions).tokens, text.encode(captions).tokens[:, :length], rtol=1e-5, atol=1e-5
    )
    assert not any(p.requires_grad for p in shorter.model.parameters())
    with pytest.raises(ValueError, match=f"initial: a tower that reads {text.max_tokens} tokens has no room"):
        shortened(text, text.max_tokens)


def test_a_finer_tower_reads_words_as_before_and_each_cell_begins_where_the_one_around_it_was(text: ClipText):
    coarse = lengthened(text, 4)
    with torch.no_grad():
        coarse.model.embeddings.position_embedding.weight[-4:].normal_()
    fine = refined(coarse, 2, 6)
    assert fine.max_tokens == text.max_tokens + 36
    words = coarse.tokenizer.model_max_length - 4
    torch.testing.assert_close(
        fine.encode(CAPTIONS).tokens[:, :words], text.encode(CAPTIONS).tokens, rtol=1e-5, atol=1e-5
    )
    before, after = (each.model.embeddings.position_embedding.weight[words:] for each in (coarse, fine))
    for row in range(6):
        for column in range(6):
            assert torch.equal(after[6 * row + column], before[2 * (row // 3) + column // 3])
    assert torch.equal(
        coarse.model.embeddings.position_embedding.weight[:words],
        fine.model.embeddings.position_embedding.weight[:words],
    )


def test_a_wider_tower_says_the_same_until_it_is_trained(text: ClipText):
    wider = lengthened(text, 0)
    inner = text.model.config.intermediate_size
    widen(wider.model, inner + 24)
    torch.testing.assert_close(wider.encode(CAPTIONS).tokens, text.encode(CAPTIONS).tokens, rtol=1e-5, atol=1e-5)
    assert text.model.config.intermediate_size == inner

    optimizer = torch.optim.SGD(wider.model.parameters(), 1.0)
    wider.encode(CAPTIONS).tokens.square().sum().backward()
    for layer in wider.model.encoder.layers:
        assert layer.mlp.fc1.weight.shape[0] == layer.mlp.fc2.weight.shape[1] == inner + 24
        assert layer.mlp.fc2.weight.grad[:, inner:].abs().sum() > 0  # what is new learns
    optimizer.step()
    assert not torch.allclose(wider.encode(CAPTIONS).tokens, text.encode(CAPTIONS).tokens, atol=1e-3)
    with pytest.raises(ValueError, match=f"image_tokens.feed_forward=1 is less than the tower's {inner + 24}"):
        widen(wider.model, 1)
