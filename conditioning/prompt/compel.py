r"""Compel's weights, which InvokeAI reads: `fox++`, `(red fox)1.3`, `(red fox)-`, and `("a", "b").and()`.

Each `+` is a factor of 1.1 and each `-` one of 0.9, of the word or the brackets before it; factors of nested brackets
multiply; brackets without a weight group and are not text. `\(` and `\)` are the characters themselves.
`("a", "b").and()` begins a new chunk with each text, and weights in its brackets are those of the texts. Facts from
damian0815/compel, `doc/syntax.md` and `src/compel/prompt_parser.py`.
"""

import re

from conditioning.prompt.fragments import BREAK, MAX_DEPTH, Fragment, Piece, clamp

_CONJUNCTION = re.compile(r'^\s*\(\s*((?:"(?:\\.|[^"\\])*"\s*,?\s*)+)\)\s*\.and\(([\d.,\s]*)\)\s*$', re.S)
_QUOTED = re.compile(r'"((?:\\.|[^"\\])*)"')
_UNREAD = re.compile(r"\)\s*\.(blend|swap)\(|\.(swap)\(")
_TOKEN = re.compile(r"\\[()\"]|[()]|[^\s()\\]+|\s+|\\")
_MARKS = re.compile(r"(\++|-+)$")
_AFTER_BRACKET = re.compile(r"\++|-+|\d*\.?\d+")


def parse_compel(text: str) -> list[Piece]:
    """A prompt -> its fragments, with BREAK between the texts of an `.and()`.

    Raises:
        ValueError: a `.blend()` or `.swap()`, which mix pictures in ways that are not here.
    """
    if unread := _UNREAD.search(text):
        name = unread[1] or unread[2]
        raise ValueError(f"the prompt's .{name}() is not read here; take it out, or write a AND b in the a1111 syntax")
    if not (joined := _CONJUNCTION.match(text)):
        return _weighted(text, 1.0)
    texts = [found[1].replace('\\"', '"') for found in _QUOTED.finditer(joined[1])]
    weights = [float(number) for number in joined[2].split(",") if _is_number(number)]
    pieces: list[Piece] = []
    for number, part in enumerate(texts):
        pieces += [BREAK] if number else []
        pieces += _weighted(part, weights[number] if number < len(weights) else 1.0)
    return pieces


def _weighted(text: str, weight: float) -> list[Piece]:
    pieces: list[Fragment] = []
    opened: list[int] = []
    position = 0
    while found := _TOKEN.match(text, position):
        token, position = found[0], found.end()
        if token == "(" and len(opened) < MAX_DEPTH:
            opened.append(len(pieces))
        elif token == ")" and opened:
            start, factor = opened.pop(), 1.0
            if marks := _AFTER_BRACKET.match(text, position):
                position, factor = marks.end(), _factor(marks[0])
            pieces[start:] = [Fragment(piece.text, clamp(piece.weight * factor)) for piece in pieces[start:]]
        elif (marks := _MARKS.search(token)) and marks.start() and token[0] != "\\":
            pieces.append(Fragment(token[: marks.start()], _factor(marks[0])))
        else:
            pieces.append(Fragment(token[1:] if len(token) == 2 and token[0] == "\\" else token))
    return _merged([Fragment(piece.text, clamp(piece.weight * weight)) for piece in pieces])


def _merged(pieces: list[Fragment]) -> list[Piece]:
    """Neighbours of one weight as one text."""
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else BREAK
        if last is not BREAK and last.weight == piece.weight:
            merged[-1] = Fragment(last.text + piece.text, piece.weight)
        else:
            merged.append(piece)
    return merged


def _factor(marks: str) -> float:
    if marks[0] in "+-":
        return clamp((1.1 if marks[0] == "+" else 0.9) ** min(len(marks), 500))
    return clamp(float(marks))


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\s*\d*\.?\d+\s*", text) is not None
