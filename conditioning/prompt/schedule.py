"""Prompt editing, prompts that change from step to step: `[from:to:when]`, `[to:when]`, `[from::when]`, `[a|b]`.

The language of A1111's prompt editing. `when` is a number of steps, or with a decimal point a fraction of all steps
(`0.4`; `1.0` is all of them). Up to and with that step the first text stands, behind it the second. `[a|b|c]` takes
the next option in every step. Both nest. What is neither stays text: `[word]`, `(word:1.2)`, brackets without partner,
and escaped ones, which keep their backslash for `conditioning.prompt.syntax` to read.

As in A1111, colons inside brackets must belong to something: `[(a:b:c):d:5]` is text, for a round bracket holds at most
one. Where A1111 gives up on a whole prompt, because a `|` stands outside an alternation or a backslash at the end, that
character is plain text here and the rest is read; where two or more stray brackets follow right behind (`[a:2]((`),
its grammar is ambiguous and it takes the edit for text, which is not copied either.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

_TOKENS = re.compile(r"[\[\]():|]|(?:[^\\\[\]():|]|\\.)+|\\", re.DOTALL)
_NUMBER = re.compile(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*")

_Part: TypeAlias = "str | _Edit | _Alternation | _Parts"
_Parts: TypeAlias = "tuple[_Part, ...]"
_Bracketed: TypeAlias = "dict[int, tuple[_Part, int]]"
"""The contents of the brackets that open at these tokens, and the index behind each."""


@dataclass(frozen=True)
class _Edit:
    before: _Parts
    after: _Parts
    when: str

    def last_step(self, steps: int) -> int:
        """The last step that reads `before`: 0 to `steps`."""
        value = float(self.when) * (steps if "." in self.when else 1)
        return int(min(max(value, 0), steps))

    def changes(self, steps: int) -> set[int]:
        return {self.last_step(steps)} - {0}

    def at(self, step: int, steps: int) -> _Parts:
        return self.before if step <= self.last_step(steps) else self.after

    def branches(self) -> _Parts:
        return (self.before, self.after)


@dataclass(frozen=True)
class _Alternation:
    options: tuple[_Parts, ...]

    def changes(self, steps: int) -> set[int]:
        return set(range(1, steps + 1))

    def at(self, step: int, steps: int) -> _Parts:
        return self.options[(step - 1) % len(self.options)]

    def branches(self) -> _Parts:
        return self.options


def prompt_schedule(text: str, steps: int) -> list[tuple[int, str]]:
    """The text of each sampling step: `(last step, text)` in ascending order, the last one being `steps`.

    Steps count from 1. Neighbours may hold the same text, where something changes that does not show.
    Equal to A1111's `get_learned_conditioning_prompt_schedules` (modules/prompt_parser.py, version 1.6 and later).

    Raises:
        ValueError: steps < 1; never for a text.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} is no number of steps; use 1 or more")
    parts = _parse(_TOKENS.findall(text))
    ends = sorted({steps, *_changes(parts, steps)})
    return [(end, _text_at(parts, end, steps)) for end in ends]


def _changes(parts: Sequence[_Part], steps: int) -> set[int]:
    ends: set[int] = set()
    rest = list(parts)
    while rest:
        part = rest.pop()
        if isinstance(part, tuple):
            rest += part
        elif not isinstance(part, str):
            ends |= part.changes(steps)
            rest += part.branches()
    return ends


def _text_at(parts: Sequence[_Part], step: int, steps: int) -> str:
    words: list[str] = []
    rest = list(reversed(parts))
    while rest:
        part = rest.pop()
        if isinstance(part, str):
            words.append(part)
        else:
            rest += reversed(part if isinstance(part, tuple) else part.at(step, steps))
    return "".join(words)


def _parse(tokens: list[str]) -> list[_Part]:
    # From the right, so that what stands inside a bracket is known before the bracket is read: no recursion, and no
    # text too long or too deep.
    bracketed: _Bracketed = {}
    for start in range(len(tokens) - 1, -1, -1):
        read = {"(": _round, "[": _square}.get(tokens[start])
        if read is not None and (found := read(tokens, start, bracketed)) is not None:
            bracketed[start] = found
    parts: list[_Part] = []
    position = 0
    while position < len(tokens):
        part, position = bracketed.get(position, (tokens[position], position + 1))
        parts.append(part)
    return parts


def _round(tokens: list[str], start: int, bracketed: _Bracketed) -> tuple[_Part, int] | None:
    """`(...)`: text around what is inside, which may hold one colon."""
    inside = _inside(tokens, start, ")", bracketed)
    if inside is None or inside[0].count(":") > 1:
        return None
    return ("(", *inside[0], ")"), inside[1]


def _square(tokens: list[str], start: int, bracketed: _Bracketed) -> tuple[_Part, int] | None:
    """`[...]`: an edit, an alternation or, without a `:` or `|`, text around what is inside."""
    inside = _inside(tokens, start, "]", bracketed)
    if inside is None:
        return None
    parts, end = inside
    fields = _split(parts, ":")
    if len(fields) == 1:
        options = _split(parts, "|")
        return (("[", *parts, "]") if len(options) == 1 else _Alternation(tuple(options))), end
    number = _NUMBER.fullmatch(fields[-1][0]) if len(fields[-1]) == 1 and isinstance(fields[-1][0], str) else None
    if number is None or len(fields) > 3:
        return None
    return _Edit(fields[0] if len(fields) == 3 else (), fields[-2], number[1]), end


def _inside(tokens: list[str], start: int, closing: str, bracketed: _Bracketed) -> tuple[list[_Part], int] | None:
    """The contents between the bracket at `start` and its partner, and the index behind that."""
    parts: list[_Part] = []
    position = start + 1
    while position < len(tokens):
        token = tokens[position]
        if token == closing:
            return parts, position + 1
        if token in "()[]":
            if position not in bracketed:
                return None
            part, position = bracketed[position]
        else:
            part, position = token, position + 1
        parts.append(part)
    return None


def _split(parts: list[_Part], separator: str) -> list[_Parts]:
    fields: list[list[_Part]] = [[]]
    for part in parts:
        if part == separator:
            fields.append([])
        else:
            fields[-1].append(part)
    return [tuple(field) for field in fields]
