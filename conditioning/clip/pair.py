"""Two CLIP text towers side by side, as Stable Diffusion XL reads prompts (Podell et al. 2023, arXiv:2307.01952)."""

import hashlib
from collections.abc import Sequence

import torch
from torch import nn

from conditioning.bundle import Conditioning
from conditioning.clip.clip_text import ClipText
from conditioning.clip.tokenizer import ClipTokenizer
from conditioning.text_encoder import Widths


class ClipPair(nn.Module):
    """Two towers that read the same tokens, each with its own padding (sec. 2.1 of the paper).

    Their token states stand side by side along D, in the order of the towers; the pooled state is the second's.
    """

    def __init__(self, first: ClipText, second: ClipText) -> None:
        """Join two towers.

        Args:
            first: the tower that also gives the tokenizer.
            second: the tower whose pooled state is used.

        Raises:
            ValueError: towers that read other tokens, or not the same number of them.
        """
        super().__init__()
        if first.max_tokens != second.max_tokens:
            raise ValueError(
                f"the first text tower reads {first.max_tokens} tokens and the second {second.max_tokens}; "
                "both must read the same number"
            )
        if first.tokenizer.get_vocab() != second.tokenizer.get_vocab():
            raise ValueError("the two text towers have tokenizers of different vocabularies; both must have the same")
        self.first = first
        self.second = second

    @property
    def towers(self) -> tuple[ClipText, ...]:
        """Both, in order."""
        return self.first, self.second

    @property
    def tokenizer(self) -> ClipTokenizer:
        """The first tower's tokenizer; the second one's differs in padding only."""
        return self.first.tokenizer

    @property
    def max_tokens(self) -> int:
        """Tokens of a prompt that are read, BOS and EOS not counted."""
        return self.first.max_tokens

    @property
    def width(self) -> int:
        """D of the token states: both towers' widths together."""
        return self.first.width + self.second.width

    @property
    def pooled_width(self) -> int:
        """P of the pooled state."""
        return self.second.pooled_width

    @property
    def widths(self) -> Widths:
        """Both together, see `TextEncoder`."""
        return Widths(self.width, self.pooled_width)

    @property
    def length(self) -> int:
        """L of the token states."""
        return self.first.length

    @property
    def fingerprint(self) -> str:
        """See `TextEncoder`."""
        return hashlib.sha256(" ".join(tower.fingerprint for tower in self.towers).encode()).hexdigest()

    def count_tokens(self, text: str) -> int:
        """Tokens of the whole text, BOS and EOS not counted, whether they fit or not."""
        return self.first.count_tokens(text)

    def ids(self, text: str) -> list[int]:
        """The text's tokens, all of them, without BOS and EOS."""
        return self.first.ids(text)

    def encode(self, prompts: Sequence[str], clip_skip: int = 0) -> Conditioning:
        """Prompts, cut to the length of the towers, -> `Conditioning(tokens=(B, L, D), pooled=(B, P))`.

        See `ClipText.encode_ids` for the states and for what is raised.
        """
        return side_by_side([tower.encode(prompts, clip_skip) for tower in self.towers])


ClipTextEncoder = ClipText | ClipPair
"""Either form of CLIP, with `towers`, `tokenizer`, `max_tokens`, `ids`, and all of `TextEncoder`."""


def clip_encoder(towers: Sequence[ClipText]) -> ClipTextEncoder:
    """One tower as it is, or a pair.

    Raises:
        ValueError: as `ClipPair`.
    """
    return towers[0] if len(towers) == 1 else ClipPair(*towers)


def side_by_side(conditionings: Sequence[Conditioning]) -> Conditioning:
    """The outputs of several towers for the same texts: tokens (B, L, D_i) joined along D, the last pooled state."""
    tokens = [each.tokens for each in conditionings if each.tokens is not None]
    return Conditioning(tokens=torch.cat(tokens, dim=-1), pooled=conditionings[-1].pooled)
