"""Train a small byte-pair vocabulary in CLIP's file format."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers.normalizers import Normalizer
    from tokenizers.pre_tokenizers import PreTokenizer

BOS = "<|startoftext|>"
EOS = "<|endoftext|>"
_END_OF_WORD = "</w>"
_WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
_SPECIALS = 2


def train_bpe(captions: Iterable[str], vocab_size: int, folder: str | Path, max_tokens: int = 30) -> int:
    """Learn byte-pair merges (Sennrich et al. 2016, arXiv:1508.07909, algorithm 1) and write a CLIP tokenizer folder.

    Every byte is in the vocabulary, so no text has unknown tokens. Text is lower-cased, and EOS pads, as in CLIP.

    Args:
        captions: the texts; a word's weight is how often it occurs, and the order of the texts changes nothing.
        vocab_size: upper bound of the vocabulary: 256 bytes, the same 256 ending a word, the merges, BOS and EOS.
        folder: gets vocab.json, merges.txt, tokenizer_config.json and special_tokens_map.json, which
            `transformers.CLIPTokenizer.from_pretrained` opens.
        max_tokens: tokens of a prompt without BOS and EOS; `model_max_length` is two more.

    Returns:
        The size of the vocabulary.

    Raises:
        ValueError: vocab_size has no room for a merge or there is no word.
    """
    base = _byte_alphabet()
    room = vocab_size - len(base) - _SPECIALS
    if room < 1:
        raise ValueError(
            f"vocab_size={vocab_size} has no room beside {len(base)} byte tokens, BOS and EOS; use 1024 or more"
        )
    merges = _learn_merges(captions, vocab_size)
    tokens = dict.fromkeys(base)
    tokens.update(dict.fromkeys(left + right for left, right in merges))
    vocabulary = {token: number for number, token in enumerate([*tokens, BOS, EOS])}
    _write(Path(folder), vocabulary, merges, max_tokens)
    return len(vocabulary)


def clip_normalizer() -> "Normalizer":
    """Composed letters, single spaces, lower case."""
    from tokenizers import Regex, normalizers

    return normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])


def clip_pre_tokenizer() -> "PreTokenizer":
    """Words, single digits and runs of signs, as bytes."""
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )


def _byte_alphabet() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    return letters + [letter + _END_OF_WORD for letter in letters]


def _learn_merges(captions: Iterable[str], vocab_size: int) -> list[tuple[str, str]]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=_END_OF_WORD, continuing_subword_prefix=""))
    tokenizer.normalizer, tokenizer.pre_tokenizer = clip_normalizer(), clip_pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - _SPECIALS,
        min_frequency=1,
        show_progress=False,
        # The trainer breaks ties by number and numbers word-ending letters in hash order: naming them fixes both.
        special_tokens=_byte_alphabet()[256:],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix=_END_OF_WORD,
    )
    texts = sorted(captions)
    if not any(text.strip() for text in texts):
        raise ValueError("captions are empty; a vocabulary needs at least one word")
    tokenizer.train_from_iterator(texts, trainer=trainer, length=len(texts))
    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def _write(folder: Path, vocabulary: dict[str, int], merges: list[tuple[str, str]], max_tokens: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    specials = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": max_tokens + _SPECIALS,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
        **specials,
    }
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(specials, indent=2) + "\n", encoding="utf-8")
