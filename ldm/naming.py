"""Names that people type, the error that offers the nearest known one, and foreign text made fit for messages."""

import inspect
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")

OptionValue = int | float | bool | str | Sequence[float]
"""Value of an option of a sampler or a schedule."""

_KINDS: dict[tuple[type, ...], str] = {(int, float): "a number", (bool,): "true or false", (str,): "a word"}
_INFINITE = (float("inf"), float("-inf"))


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: `did you mean 'euler'?`, or the list of all known names where none is near."""
    names = sorted(known)
    folded = {candidate.casefold(): candidate for candidate in names}
    close = [folded[match] for match in get_close_matches(name.casefold(), folded, n=2, cutoff=0.5)]
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"known: {', '.join(names)}" if names else "none are known"


def look_up(field: str, name: str, table: Mapping[str, T]) -> T:
    """table[name].

    Raises:
        ValueError: the name is not in the table, or no name at all; says which field, the name, and the nearest known
            ones.
    """
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"unknown {field} {shown(name)}; {nearest(str(name), table)}")
    return table[name]


def check_options(owner: str, function: Callable[..., object], options: Mapping[str, object]) -> None:
    """Refuse options that a function does not have; its options are its keyword-only parameters.

    Where the default of one is a number, a truth or a word, so must be its value.

    Raises:
        ValueError: an unknown option, or one of another type; names the owner and the nearest known one.
    """
    parameters = inspect.signature(function).parameters.values()
    own = {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}
    for option, value in options.items():
        if option not in own:
            raise ValueError(f"{owner} has no option {option!r}; {nearest(option, own)}")
        for kinds, words in _KINDS.items():
            if type(own[option]) in kinds and (type(value) not in kinds or not _fits_float(value)):
                raise ValueError(f"{owner}: option {option}={shown(value)} must be {words}")


def _fits_float(value: object) -> bool:
    return not isinstance(value, int | float) or (value == value and (value in _INFINITE or abs(value) <= 1e300))


def shown(value: object) -> str:
    """A value of any size and depth for a message."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 100
    short.maxlist, short.maxlevel = 16, 3
    return short.repr(value)


def printable(text: str) -> str:
    """A text with escapes for all that terminals would follow and not print; lines stay lines."""
    return "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text)


def one_line(text: str, longest: int = 1000) -> str:
    """A text for a terminal: one line, cut in its middle, with escapes for all that is not printed."""
    half = longest // 2
    if len(text) > 4 * longest:  # whatever is in the middle is left out anyway
        text = f"{text[: 2 * longest]} ... {text[-2 * longest :]}"
    line = printable(" ".join(text.split()))
    return line if len(line) <= longest else f"{line[:half]} ... {line[-half:]}"
