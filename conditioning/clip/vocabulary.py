"""CLIP's own vocabulary, which every Stable Diffusion family reads prompts with; it is shipped, so nothing is fetched.

`bpe_merges/merges.txt` holds the 48,894 merges that OpenAI trained (Radford et al. 2021, arXiv:2103.00020, sec. 2.4),
as they stand in `bpe_simple_vocab_16e6.txt.gz` of CLIP and OpenCLIP; its MIT licence is beside it.
"""

from functools import cache
from pathlib import Path

from conditioning.clip.bpe import BOS, EOS
from conditioning.clip.tokenizer import ClipTokenizer

PAD_EOS = EOS
"""The padding token of SD 1 and of SDXL's first tokenizer, id 49407."""
PAD_ZERO = "!"
"""The padding token of SD 2 and of SDXL's second tokenizer, id 0."""

_MERGES = Path(__file__).parent / "bpe_merges" / "merges.txt"


def clip_tokenizer(pad_token: str = PAD_EOS, max_length: int = 77) -> ClipTokenizer:
    """CLIP's tokenizer, of 49,408 tokens.

    Args:
        pad_token: `PAD_EOS` or `PAD_ZERO`.
        max_length: with BOS and EOS.
    """
    vocabulary, merges = clip_vocabulary()
    return ClipTokenizer(vocabulary, merges, pad_token=pad_token, model_max_length=max_length)


@cache
def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token -> id, and the merges in their order: the contents of `vocab.json` and `merges.txt` of these models."""
    lines = _MERGES.read_text(encoding="utf-8").strip().split("\n")[1:]
    merges = [(left, right) for left, right in (line.split() for line in lines)]
    letters = _byte_letters()
    words = [*letters, *(letter + "</w>" for letter in letters), *(left + right for left, right in merges)]
    return {token: number for number, token in enumerate([*words, BOS, EOS])}, merges


def _byte_letters() -> list[str]:
    """A visible letter for each byte, in GPT-2's order: printable bytes stand for themselves and come first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(others))]
