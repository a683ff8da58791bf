"""The shipped vocabulary is CLIP's, to the last token, and gives the published ids."""

import hashlib
import json
from pathlib import Path

import pytest

from conditioning.clip.vocabulary import PAD_EOS, PAD_ZERO, clip_tokenizer, clip_vocabulary

# Of the files in the published folders of SD 1.5, 2.1 and XL.
VOCABULARY_SHA256 = "e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349"
MERGES_SHA256 = "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a"

# Published ids (computed with transformers 5.23 from the published folders), without BOS and EOS.
GOLDEN = {
    "": [],
    "a": [320],
    "a photo of a cat": [320, 1125, 539, 320, 2368],
    "a photograph of an astronaut riding a horse": [320, 8853, 539, 550, 18376, 6765, 320, 4558],
    "A painting of a squirrel eating a burger": [320, 3086, 539, 320, 14004, 4371, 320, 6548],
    "HELLO   World": [3306, 1002],
    "don't stop": [847, 713, 1691],
    "it's 2024, isn't it?": [585, 568, 273, 271, 273, 275, 267, 2923, 713, 585, 286],
    "café naïve 日本語 😀": [15304, 1097, 35689, 563, 39121, 44353, 34002, 508, 7334],
    "<|startoftext|> hi <|endoftext|>": [49406, 1883, 49407],
    "a\nb\tc": [320, 321, 322],
    "&amp; html &lt;b&gt;": [261, 6259, 282, 18231, 261, 3333, 282, 321, 261, 4725, 282],
    "supercalifragilisticexpialidocious": [1642, 2857, 13093, 2076, 5868, 26850, 835, 639, 38466],
}


def test_vocabulary_and_merges_are_the_published_files() -> None:
    vocabulary, merges = clip_vocabulary()
    as_published = json.dumps(dict(sorted(vocabulary.items())), indent=2, ensure_ascii=False) + "\n"
    assert hashlib.sha256(as_published.encode()).hexdigest() == VOCABULARY_SHA256
    lines = "\n".join(["#version: 0.2", *(f"{left} {right}" for left, right in merges)]) + "\n"
    assert hashlib.sha256(lines.encode()).hexdigest() == MERGES_SHA256


def test_prompts_have_the_published_ids() -> None:
    tokenizer = clip_tokenizer()
    assert (len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id) == (49408, 49406, 49407)
    for prompt, ids in GOLDEN.items():
        assert tokenizer(prompt).input_ids == [49406, *ids, 49407], prompt


@pytest.mark.parametrize(("pad_token", "pad_id"), [(PAD_EOS, 49407), (PAD_ZERO, 0)])
def test_families_pad_with_different_ids(pad_token: str, pad_id: int) -> None:
    row = clip_tokenizer(pad_token)("a cat", padding="max_length").input_ids
    assert row == [49406, 320, 2368, 49407] + [pad_id] * 73


def test_long_prompts_end_at_77_with_eos() -> None:
    row = clip_tokenizer()("very " * 100, truncation=True).input_ids
    assert len(row) == 77 and row[-1] == 49407


def test_its_licence_is_beside_it() -> None:
    import conditioning

    text = (Path(conditioning.__file__).parent / "clip" / "bpe_merges" / "LICENSE").read_text()
    assert "MIT License" in text and "OpenAI" in text
