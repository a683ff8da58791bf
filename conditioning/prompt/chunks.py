"""Tokens into chunks: rows that a text tower of fixed length reads one at a time."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from conditioning.prompt.fragments import BREAK, Break

_SHORT_WORD = 8


class Token(NamedTuple):
    """One position of a chunk."""

    id: int
    """In the tokenizer's vocabulary; stands for nothing where there is a vector."""
    weight: float = 1.0
    vector: Tensor | None = None
    """(D,) input embedding in place of the token's own: one vector of a textual inversion."""


Chunk = tuple[Token, ...]
"""The tokens between BOS and EOS."""


def pack_at_commas(units: Iterable[Chunk | Literal[Break.BREAK]], room: int, comma: int | None) -> list[Chunk]:
    """Fill chunks of `room` tokens as A1111 does; at least one, which may be empty.

    A chunk that is full ends behind its last comma instead, if that is among its last 20 of 75 tokens, so that no
    phrase is torn. A comma that comes exactly when the chunk is full opens the next one, as in A1111.

    Args:
        units: what must not be parted: one token, or all vectors of an embedding. BREAK ends the chunk.
        room: tokens of a chunk, without BOS and EOS.
        comma: id of the comma; None where the vocabulary has none.
    """
    reach = 20 * room // 75
    chunks: list[Chunk] = []
    chunk: list[Token] = []
    last_comma: int | None = None
    for unit in units:
        if unit is BREAK:
            chunks.append(tuple(chunk))
            chunk, last_comma = [], None
            continue
        if unit[0].id == comma and unit[0].vector is None:
            last_comma = len(chunk)
        elif last_comma is not None and len(chunk) == room and room - last_comma <= reach:
            chunks.append(tuple(chunk[: last_comma + 1]))
            chunk, last_comma = chunk[last_comma + 1 :], None
        if len(chunk) + len(unit) > room:
            chunks.append(tuple(chunk))
            chunk, last_comma = [], None
        chunk += unit
    if chunk or not chunks:
        chunks.append(tuple(chunk))
    return chunks


def pack_words(words: Sequence[Chunk], room: int) -> list[Chunk]:
    """Fill chunks of `room` tokens as ComfyUI does; at least one, which may be empty.

    A word that does not fit opens the next chunk; one of 8 tokens or more is cut where the chunk is full.
    """
    chunks: list[Chunk] = []
    chunk: Chunk = ()
    for word in words:
        may_be_cut = len(word) >= _SHORT_WORD or len(word) > room
        while len(chunk) + len(word) > room:
            cut = room - len(chunk) if may_be_cut else 0
            chunks.append(chunk + word[:cut])
            chunk, word = (), word[cut:]
        chunk += word
    return [*chunks, chunk]
