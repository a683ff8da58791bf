"""Token states from the cache are those of the live encoder, and losses with them are the same to 1e-5."""

from collections.abc import Sequence

import pytest
import torch
from families import make_text
from tiny_text import own_tokenizer, own_tower

from conditioning.bundle import Conditioning
from conditioning.clip.clip_text import ClipText
from conditioning.clip.pair import ClipPair
from conditioning.text_encoder import TextEncoder
from ldm.data.cache import text_states
from ldm.data.cache.text_states import TextStates, caption_bytes, encode_captions
from ldm.io.folder.load import load_text

CAPTIONS = ["a red apple", "red", "ap", "a " * 30, "apple " * 3] + [f"{i} apples" for i in range(100)]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def text(tiny_folder) -> ClipText:
    return load_text(tiny_folder)


@pytest.fixture(scope="module")
def pair(text, tmp_path_factory) -> ClipPair:
    tokenizer, model = make_text(tmp_path_factory.mktemp("towers") / "second", 3, "gelu", True, "!")
    return ClipPair(text, ClipText(own_tokenizer(tokenizer), own_tower(model), penultimate=True))


def _encodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts captions that go through the encoder."""
    seen: list[int] = []

    def counted(text: TextEncoder, captions: Sequence[str], device: torch.device) -> Conditioning:
        seen.append(len(captions))
        return encode_captions(text, captions, device)

    monkeypatch.setattr(text_states, "encode_captions", counted)
    return seen


@pytest.mark.parametrize("kind", ["text", "pair"])
def test_states_from_disk_are_those_of_the_encoder(kind, request, tmp_path):
    encoder = request.getfixturevalue(kind)
    states = TextStates(encoder, CAPTIONS, tmp_path)
    requested = ["red", "", "a red apple", "red", CAPTIONS[-1], CAPTIONS[3]]
    cached, live = states.encode(requested, CPU), encode_captions(encoder, requested, CPU)
    exact = encoder.encode(requested)
    for name in ("tokens", "pooled"):
        mine, theirs, truth = (getattr(encoded, name) for encoded in (cached, live, exact))
        assert mine.dtype == theirs.dtype == torch.float16 and mine.shape == truth.shape
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(mine.float(), truth, rtol=0.05, atol=0.1)


def test_states_from_disk_are_the_same_under_autocast(text, tmp_path):
    states = TextStates(text, CAPTIONS, tmp_path)
    plain = states.encode(CAPTIONS, CPU)
    with torch.autocast("cpu", torch.bfloat16):
        inside = states.encode(CAPTIONS, CPU)
    assert torch.equal(plain.tokens, inside.tokens) and torch.equal(plain.pooled, inside.pooled)


def test_each_caption_is_encoded_once_and_others_live(text, tmp_path, monkeypatch):
    seen = _encodes(monkeypatch)
    states = TextStates(text, CAPTIONS + CAPTIONS, tmp_path)
    assert sum(seen) == len(CAPTIONS) + 1  # and the empty one
    states.encode(CAPTIONS, CPU)
    TextStates(text, CAPTIONS[::-1], tmp_path).encode([""], CPU)
    assert sum(seen) == len(CAPTIONS) + 1
    encoded = states.encode(["red", "nobody said this"], CPU)
    assert sum(seen) == len(CAPTIONS) + 3
    torch.testing.assert_close(encoded.tokens[0], states.encode(["red"], CPU).tokens[0], rtol=1e-3, atol=1e-3)


def test_other_weights_tokens_or_captions_have_states_of_their_own(tiny_folder, tmp_path):
    def folders() -> int:
        return len(list(tmp_path.glob("text-*")))

    text = load_text(tiny_folder)
    TextStates(text, CAPTIONS, tmp_path)
    TextStates(text, CAPTIONS[1:], tmp_path)
    assert folders() == 2
    with torch.no_grad():
        next(text.model.parameters()).mul_(1.1)
    before = TextStates(load_text(tiny_folder), CAPTIONS, tmp_path).encode(["red"], CPU)
    after = TextStates(text, CAPTIONS, tmp_path).encode(["red"], CPU)
    assert folders() == 3 and not torch.equal(before.tokens, after.tokens)
    text.tokenizer.pad_token = "a"
    TextStates(text, CAPTIONS, tmp_path)
    assert folders() == 4


def test_a_caption_takes_what_is_said(text, tmp_path):
    TextStates(text, CAPTIONS, tmp_path)
    (folder,) = tmp_path.iterdir()
    size = sum(path.stat().st_size for path in folder.iterdir())
    expected = (len(CAPTIONS) + 1) * caption_bytes(text)
    assert expected <= size <= expected + 1000 * len(list(folder.iterdir()))
