r"""Weights inside a prompt: `(word:1.2)`, `((word))`, `[word]`, escapes and `BREAK`.

Dialects that people share prompts in, and one that reads every character as text. Any text is read, and none but
compel's `.blend()` and `.swap()` is an error.

a1111 (stable-diffusion-webui): `(x)` times 1.1, `[x]` divided by 1.1, `(x:1.3)` times 1.3; nested factors multiply.
    `BREAK` ends a chunk. `\(` `\)` `\[` `\]` `\\` are the characters themselves. Its quirks, kept:
    a bracket that is never closed holds to the end of the prompt; a closing one that was never opened is text; brackets
    of the two kinds may overlap; `(a:1.2:3)` is `a:1.2` at 3; `[a:1.2]` is `a:1.2` divided by 1.1; any other backslash
    vanishes; neighbours of equal weight are one text, so `(un)(common)` is the word `uncommon`.
    Two corners differ: `(a:1.2.3)` is text where the webui raises, and a `BREAK` inside brackets ends a chunk
    where the webui draws the word "break" at a negative weight.
comfy (ComfyUI): `(x)` times 1.1, but `(x:1.3)` is 1.3 whatever is around it. Square brackets and `BREAK` are text.
    `\(` and `\)` are the characters themselves. Its quirks, kept: an unclosed bracket is text with all that follows,
    unless the prompt ends in `)`: then the first `(` and that last `)` are a pair; after a stray `)` the next `(` is
    text; neighbours of equal weight stay two texts; a number may be written as Python writes it (`1e-1`).
compel (InvokeAI): see `conditioning.prompt.compel`.
plain: the prompt is its own text, at weight 1.

Beyond what a picture can bear, both dialects are cut: weights to +-MAX_WEIGHT, and brackets inside MAX_DEPTH others are
text.
"""

import re
from collections.abc import Iterator
from math import isnan

from conditioning.prompt.compel import parse_compel
from conditioning.prompt.fragments import BREAK, MAX_DEPTH, Fragment, Piece, clamp

MODES = ("a1111", "comfy", "compel", "plain")
MAX_LENGTH = 32_000
"""Characters of a prompt, before and after its wildcards are drawn: 6,000 words, 100 chunks."""
_STEP = 1.1

_A1111 = re.compile(r"\\[\\()\[\]]|[\\()\[\]:]|[^\\()\[\]:]+")
_A1111_WEIGHT = re.compile(r":\s*([+-]?[.\d]+)\s*\)")
_BREAK_WORD = re.compile(r"\bBREAK\b")
_COMFY = re.compile(r"\\[()]|[\\()]|[^\\()]+")


def check_mode(mode: str) -> None:
    """Refuse an unknown mode.

    Raises:
        ValueError: a name that is none of MODES.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is unknown; use {', '.join(MODES[:-1])} or {MODES[-1]}")


def parse(text: str, mode: str = "a1111") -> tuple[Piece, ...]:
    """A prompt -> its fragments in order, with BREAK between those that belong to different chunks.

    The empty prompt has no fragments.

    Raises:
        ValueError: an unknown mode, or compel's `.blend()` and `.swap()`; never for another text.
    """
    check_mode(mode)
    if mode == "a1111":
        return tuple(_parse_a1111(text))
    if mode == "comfy":
        return tuple(_parse_comfy(_COMFY.findall(text), 1.0, MAX_DEPTH))
    if mode == "compel":
        return tuple(parse_compel(text))
    return (Fragment(text),) if text else ()


def _parse_a1111(text: str) -> list[Piece]:
    pieces: list[Piece] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}
    growing = False  # whether text goes on with the last piece, no bracket being between them

    def close(bracket: str, factor: float) -> None:
        start = opened[bracket].pop()
        pieces[start:] = [_times(piece, factor) for piece in pieces[start:]]

    position = 0
    while found := _A1111.match(text, position):
        position = found.end()
        token = found[0]
        weight = _A1111_WEIGHT.match(text, found.start()) if token == ":" and opened["("] else None
        factor = _number(weight[1]) if weight else None
        if weight and factor is not None:
            position = weight.end()
            close("(", factor)
        elif token in opened and sum(map(len, opened.values())) < MAX_DEPTH:
            opened[token].append(len(pieces))
        elif token == ")" and opened["("]:
            close("(", _STEP)
        elif token == "]" and opened["["]:
            close("[", 1 / _STEP)
        else:
            _append(pieces, [token[1:]] if token[0] == "\\" else _around_breaks(token), growing)
            growing = True
            continue
        growing = False
    # As the webui does: what was never closed reaches to the end.
    for opening, factor in (("(", _STEP), ("[", 1 / _STEP)):
        while opened[opening]:
            close(opening, factor)
    return _without_idle(_merged(pieces))


def _around_breaks(text: str) -> list[str]:
    """The texts between the BREAKs, without the spaces beside these."""
    first, *others = _BREAK_WORD.split(text)
    if not others:
        return [first]
    return [first.rstrip(), *(text.strip() for text in others[:-1]), others[-1].lstrip()]


def _append(pieces: list[Piece], texts: list[str], growing: bool) -> None:
    """Add texts with a BREAK between each two; the first one goes on with the last piece if that still grows."""
    first, *others = texts
    if growing and (last := pieces[-1]) is not BREAK:
        pieces[-1] = Fragment(last.text + first)
    else:
        pieces.append(Fragment(first))
    for text in others:
        pieces += [BREAK, Fragment(text)]


def _times(piece: Piece, factor: float) -> Piece:
    return piece if piece is BREAK else Fragment(piece.text, clamp(piece.weight * factor))


def _merged(pieces: list[Piece]) -> list[Piece]:
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else BREAK
        if piece is not BREAK and last is not BREAK and piece.weight == last.weight:
            merged[-1] = Fragment(last.text + piece.text, piece.weight)
        else:
            merged.append(piece)
    return merged


def _without_idle(pieces: list[Piece]) -> list[Piece]:
    """Without the empty fragments that part no two others: those at the ends and beside a BREAK."""
    kept: list[Piece] = []
    for piece in pieces:
        if piece is BREAK:
            _drop_empty(kept)
        if piece is BREAK or piece.text or (kept and kept[-1] is not BREAK):
            kept.append(piece)
    _drop_empty(kept)
    return kept


def _drop_empty(pieces: list[Piece]) -> None:
    while pieces and pieces[-1] is not BREAK and not pieces[-1].text:
        pieces.pop()


def _parse_comfy(tokens: list[str], weight: float, depth: int) -> Iterator[Fragment]:
    for part in _top_level(tokens):
        if depth and part[0] == "(" and part[-1] == ")" and len(part) > 1:
            inner, own = _own_weight(part[1:-1])
            yield from _parse_comfy(inner, clamp(weight * _STEP) if own is None else own, depth - 1)
        else:
            text = "".join(token[1:] if token in ("\\(", "\\)") else token for token in part)
            yield Fragment(text, weight)


def _top_level(tokens: list[str]) -> Iterator[list[str]]:
    """Runs of tokens, cut before each `(` and behind each `)` where as many were opened as closed before."""
    start = level = 0
    for number, token in enumerate(tokens):
        if token == "(":
            if level == 0 and start < number:
                yield tokens[start:number]
                start = number
            level += 1
        elif token == ")":
            level -= 1
            if level == 0:
                yield tokens[start : number + 1]
                start = number + 1
    if start < len(tokens):
        yield tokens[start:]


def _own_weight(tokens: list[str]) -> tuple[list[str], float | None]:
    """The inside of brackets without the `:1.2` at its end, and that number."""
    head, colon, tail = tokens[-1].rpartition(":") if tokens else ("", "", "")
    if colon and (head or tokens[:-1]):
        number = _number(tail)
        if number is not None:
            return [*tokens[:-1], head] if head else tokens[:-1], number
    return tokens, None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return None if isnan(value) else clamp(value)
