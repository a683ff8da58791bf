r"""Random prompts with alternatives and wildcards: `{red|green} apple`, `{2$$a|b|c}`, `__animal__`.

The notation of the dynamic-prompts extension. `{a|b}` is one of its options, `{2$$a|b|c}` two different ones joined by
", ", `{1-2$$ and $$a|b|c}` one or two joined by " and ". `__animal__` is a line of `animal.txt` and `__sea/fish__`
one of `sea/fish.txt`, where `#` opens a comment; lines may hold options and further wildcards. All of it nests.

Braces without `|` and `$$` are text, and so is a brace without partner. `\{`, `\}` and `\_` are the characters
themselves; inside braces `\|` is too. Other backslashes are left to whoever reads the prompt next.
"""

import hashlib
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from conditioning.prompt.syntax import MAX_LENGTH

_TOKENS = re.compile(r"\\[{}|_]|__[\w./-]+?__|[{}|]|[^\\{}|_]+|.", re.DOTALL)
_COUNT = re.compile(r"(?=[\d-])(\d{0,4})(-?)(\d{0,4})\$\$(?:(.*?)\$\$)?", re.DOTALL)
_DEEPEST = 20
_MOST_LINES = 1000


def draw(text: str, seed: int, folder: Path | None = None) -> str:
    """The prompt with every choice made, a function of `seed` and `text` (and the files) alone.

    Args:
        text: the prompt.
        seed: the picture's.
        folder: of the .txt files; without one, `__animal__` is text.

    Raises:
        ValueError: a wildcard that has no file in the folder, or no line, or that contains itself; a prompt that is, or
            grows, longer than `MAX_LENGTH`, or that draws more than a thousand lines.
    """
    return _within_length(_draw(text, _Lots(seed, _within_length(text)), folder, ()))


def _within_length(text: str) -> str:
    if len(text) > MAX_LENGTH:
        raise ValueError(f"the prompt is {len(text):,} characters long with its wildcards; use at most {MAX_LENGTH:,}")
    return text


def literal(text: str) -> str:
    """A prompt that `draw` turns into `text`, whatever the seed: for repeating what was drawn."""
    return re.sub(r"[{}]|_(?=_)|(?<=\\)_", r"\\\g<0>", text)


class _Lots:
    """Fair draws from a seed and a text: SHA-256 in counter mode, so no library's generator can change a picture."""

    def __init__(self, seed: int, text: str) -> None:
        self._key = f"{seed}\n{text}".encode("utf-8", "surrogatepass")
        self._count = 0
        self._lines: dict[Path, list[str]] = {}
        self._lines_taken = 0

    def __call__(self, options: int) -> int:
        """0 to options - 1."""
        self._count += 1
        digest = hashlib.sha256(b"%d\n%s" % (self._count, self._key)).digest()
        return int.from_bytes(digest, "big") % options

    def line(self, path: Path, name: str) -> str:
        """A line of a file; each file is read once."""
        self._lines_taken += 1
        if self._lines_taken > _MOST_LINES:
            raise ValueError(
                f"wildcard __{name}__: one prompt draws more than {_MOST_LINES:,} lines; let files name fewer others"
            )
        if path not in self._lines:
            try:
                lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
            except UnicodeDecodeError as error:
                raise ValueError(f"wildcard __{name}__: {path} is not UTF-8 ({error.reason}); save it so") from None
            self._lines[path] = [line for line in lines if line and not line.startswith("#")]
        if not self._lines[path]:
            raise ValueError(f"wildcard __{name}__: {path} has no line to draw; add one")
        return self._lines[path][self(len(self._lines[path]))]


def _draw(text: str, lots: _Lots, folder: Path | None, within: tuple[str, ...]) -> str:
    # One entry for each open brace: its options so far. The first entry is the prompt itself.
    open_options: list[list[str]] = [[""]]
    for token in _TOKENS.findall(text):
        options = open_options[-1]
        if token == "{":
            open_options.append([""])
        elif token == "|" and len(open_options) > 1:
            options.append("")
        elif token == "}" and len(open_options) > 1:
            open_options.pop()
            open_options[-1][-1] += _chosen(options, lots)
        elif token in ("\\{", "\\}", "\\_") or (token == "\\|" and len(open_options) > 1):
            options[-1] += token[1:]
        elif token.startswith("__") and len(token) > 4 and folder is not None:
            options[-1] += _line(token[2:-2], lots, folder, within)
        else:
            options[-1] += token
    return "{".join("|".join(options) for options in open_options)


def _chosen(options: list[str], lots: _Lots) -> str:
    counted = _COUNT.match(options[0])
    if counted is None:
        return options[lots(len(options))] if len(options) > 1 else "{" + options[0] + "}"
    low, dash, high, separator = counted.groups()
    left = [options[0][counted.end() :], *options[1:]]
    least = min(int(low or 1), len(left))
    most = min(int(high or len(left)), len(left)) if dash else least
    wanted = least + lots(max(most - least, 0) + 1)
    taken = [left.pop(lots(len(left))) for _ in range(wanted)]
    separator = ", " if separator is None else separator
    if len(separator) * wanted > MAX_LENGTH:
        raise ValueError(f"the prompt joins {wanted:,} options by {len(separator):,} characters; use fewer")
    return separator.join(taken)


def _line(name: str, lots: _Lots, folder: Path, within: tuple[str, ...]) -> str:
    if name in within or len(within) >= _DEEPEST:
        raise ValueError(f"wildcard __{name}__ contains itself: {' > '.join([*within, name])}; take it out of its file")
    path = folder / f"{name}.txt"
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        known = sorted(_names(folder))
        near = get_close_matches(name, known, n=2) or known[:8]
        there = ", ".join(near) or "none"
        raise ValueError(f"wildcard __{name}__ has no file {name}.txt in {folder}; there are: {there}")
    return _within_length(_draw(_within_length(lots.line(path, name)), lots, folder, (*within, name)))


def _names(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*.txt"):
        yield path.relative_to(folder).with_suffix("").as_posix()
