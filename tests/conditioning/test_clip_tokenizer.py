"""Our tokenizer against transformers' CLIPTokenizer: the same ids of anything, from any files, there and back."""

import copy
import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTokenizer

from conditioning.clip.bpe import train_bpe
from conditioning.clip.tokenizer import ClipTokenizer
from conditioning.clip.vocabulary import PAD_ZERO, clip_tokenizer, clip_vocabulary

TEXTS = [
    "",
    " ",
    "a Red  apple,\n3d\tSTYLE",
    "un été à Zürich, STRASSE straße İstanbul",
    "e\u0301 is \u00e9; \ufb01 is no fi; \u212b",  # letters to be composed, and not
    "日本語の猫 中文字符 한국어 ไทย العربية עברית हिन्दी",
    "🚀👩‍👩‍👧‍👦🏳️‍🌈 😀😀a😀",
    "\x00\x01\x1b[31m \x7f\x85\xa0\u200b\u2028\ufeff\ufffd",
    "supercalifragilisticexpialidocious" * 20,
    "a</w> </w> b</w>c <w>",
    "<|startoftext|> hi <|endoftext|> <|endoftext|>there<|STARTOFTEXT|>",
    "<| endoftext |> <|endoftext|",
    "don't it's WE'LL they'D 'tis ''s",
    "1234567 ½ ² Ⅷ ٣٤ 1,000.50$",
    "!!!???...---((((:))))",
    "the fox's bananas " * 40,
    "<sks> a sks dog<sks>! <SKS>",
]


def alike(ours: ClipTokenizer, theirs: CLIPTokenizer) -> None:
    """Assert the same of every text and every setting."""
    for text in TEXTS:
        assert ours(text).input_ids == theirs(text).input_ids, text
        assert [ours.bos_token_id, *ours.ids(text), ours.eos_token_id] == ours(text).input_ids
        assert ours.decode(ours.ids(text)) == theirs.decode(ours.ids(text)), text
    assert ours.get_vocab() == theirs.get_vocab() and len(ours) == len(theirs)
    for name in ("bos_token", "eos_token", "unk_token", "pad_token", "model_max_length"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id"):
        assert getattr(ours, name) == getattr(theirs, name), name


def write(folder: Path, **files: Any) -> Path:
    """vocab.json and merges.txt of a small vocabulary, and more files by their stems."""
    train_bpe(["a red apple, 3d style", "the fox's bananas", "a cat and a dog"], 560, folder, max_tokens=14)
    (folder / "special_tokens_map.json").unlink()
    for stem, content in files.items():
        (folder / f"{stem}.json").write_text(json.dumps(content))
    return folder


def spelt(content: str, **more: Any) -> dict[str, Any]:
    return {"content": content, "lstrip": False, "rstrip": False, "single_word": False, "normalized": True} | more


# As they lie in published folders: plain texts, objects of transformers 4.0 to 4.40, added tokens of three kinds.
FOLDERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no config": {"tokenizer_config": {}},
    "SD 1.5": {
        "tokenizer_config": {
            "bos_token": spelt("<|startoftext|>", __type="AddedToken"),
            "eos_token": spelt("<|endoftext|>", __type="AddedToken"),
            "unk_token": spelt("<|endoftext|>", __type="AddedToken"),
            "pad_token": "<|endoftext|>",
            "model_max_length": 77,
        },
        "special_tokens_map": {
            "bos_token": spelt("<|startoftext|>"),
            "eos_token": spelt("<|endoftext|>"),
            "unk_token": spelt("<|endoftext|>"),
            "pad_token": "<|endoftext|>",
        },
    },
    "SDXL second": {
        "tokenizer_config": {
            "added_tokens_decoder": {
                "0": spelt("!", normalized=False, special=True),
                "558": spelt("<|startoftext|>", special=True),
                "559": spelt("<|endoftext|>", special=True),
            },
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "pad_token": "!",
            "model_max_length": 77,
        },
    },
    "SD 2": {"special_tokens_map": {"pad_token": "!", "bos_token": spelt("<|startoftext|>", normalized=False)}},
    "textual inversion": {"added_tokens": {"<sks>": 560, "sks": 561}},
    "more special tokens": {"special_tokens_map": {"additional_special_tokens": ["<sks>", "dog"], "mask_token": "cat"}},
    "a placeholder": {
        "tokenizer_config": {"added_tokens_decoder": {"560": spelt("<sks>", normalized=False), "561": spelt("Dog")}}
    },
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_give_the_ids_of_transformers(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "old", **FOLDERS[name])
    theirs = CLIPTokenizer.from_pretrained(folder)
    ours = ClipTokenizer.from_folder(folder)
    alike(ours, theirs)
    theirs.save_pretrained(tmp_path / "new")  # tokenizer.json
    alike(ClipTokenizer.from_folder(tmp_path / "new"), theirs)
    ours.save(tmp_path / "saved")
    alike(ours, CLIPTokenizer.from_pretrained(tmp_path / "saved"))
    alike(ClipTokenizer.from_folder(tmp_path / "saved"), theirs)


def test_the_published_vocabulary_gives_the_ids_of_transformers(tmp_path: Path) -> None:
    vocabulary, merges = clip_vocabulary()
    theirs = CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=PAD_ZERO, model_max_length=77)
    ours = clip_tokenizer(PAD_ZERO)
    alike(ours, theirs)
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    letters = [chr(code) for code in (*range(0x20, 0x2FF), *range(0x3000, 0x30FF), *range(0x1F600, 0x1F640))]
    draw = random.Random(0)
    for _ in range(300):
        text = "".join(draw.choices(letters, k=40))
        assert ours(text).input_ids == theirs(text).input_ids, text
    ours.save(tmp_path)
    alike(ours, CLIPTokenizer.from_pretrained(tmp_path))


@pytest.mark.parametrize(
    "settings",
    [
        {"padding": True},
        {"padding": "max_length"},
        {"truncation": True},
        {"padding": "max_length", "truncation": True, "max_length": 8},
    ],
    ids=str,
)
def test_rows_are_those_of_transformers(settings: dict[str, Any]) -> None:
    vocabulary, merges = clip_vocabulary()
    theirs, ours = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77), clip_tokenizer()
    mine, expected = ours(TEXTS, **settings), theirs(TEXTS, **settings)
    assert mine.input_ids == expected.input_ids and mine.attention_mask == expected.attention_mask
    if settings == {"padding": "max_length", "truncation": True, "max_length": 8}:
        assert torch.equal(ours(TEXTS, **settings, return_tensors="pt").input_ids, torch.tensor(expected.input_ids))


def test_another_padding_takes_effect_at_once() -> None:
    tokenizer = clip_tokenizer()
    tokenizer.pad_token = "!"
    assert tokenizer("a", padding="max_length").input_ids[3:] == [0] * 74
    tokenizer.pad_token = "nobody knows"
    with pytest.raises(ValueError, match="'nobody knows' is no token of this tokenizer"):
        tokenizer("a", padding="max_length")


def test_copies_give_the_same_ids(tmp_path: Path) -> None:
    ours = ClipTokenizer.from_folder(write(tmp_path, **FOLDERS["textual inversion"]))
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert [twin.ids(text) for text in TEXTS] == [ours.ids(text) for text in TEXTS]


def test_words_end_where_they_are_spelt() -> None:
    tokenizer = clip_tokenizer()
    assert tokenizer.convert_ids_to_tokens(tokenizer.ids("a cat")) == ["a</w>", "cat</w>"]
