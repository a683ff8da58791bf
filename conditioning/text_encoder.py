"""The protocol of text encoders: what CLIP, CLIP pairs and other encoders have in common."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

from conditioning.bundle import Conditioning


class Widths(NamedTuple):
    """Sizes of what a text encoder gives. pooled: 0 where there is no pooled state."""

    tokens: int
    pooled: int


@runtime_checkable
class TextEncoder(Protocol):
    """Texts in, token states and perhaps a pooled state out: a CLIP tower, a pair of them, T5."""

    @property
    def widths(self) -> Widths:
        """D of `Conditioning.tokens` and P of `Conditioning.pooled`."""

    @property
    def length(self) -> int:
        """L of `Conditioning.tokens`, which texts are cut and padded to."""

    @property
    def fingerprint(self) -> str:
        """Another one whenever it gives something else for the same text: other weights, other tokens."""

    def encode(self, texts: Sequence[str]) -> Conditioning:
        """Texts as they stand -> `Conditioning(tokens=(B, L, D), pooled=(B, P))`, perhaps with a mask (B, L)."""

    def count_tokens(self, text: str) -> int:
        """Tokens of a whole text, whether they fit or not, without those that stand around every text."""

    def to(self, device: torch.device, /) -> Any:
        """Move its networks; returns itself."""
