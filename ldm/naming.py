"""Names that people type, the error that offers the nearest known one, and foreign text made fit for messages."""

import inspect
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")

OptionValue = int | float | bool | str | Sequence[float]
"""Value of an option of a sampler or a schedule."""


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
        ValueError: the name is not in the table; says which field, the name, and the nearest known ones.
    """
    if name not in table:
        raise ValueError(f"unknown {field} {name!r}; {nearest(name, table)}")
    return table[name]


def check_options(owner: str, function: Callable[..., object], options: Iterable[str]) -> None:
    """Refuse options that a function does not have; its options are its keyword-only parameters.

    Raises:
        ValueError: an unknown option; names the owner and the nearest known one.
    """
    parameters = inspect.signature(function).parameters.values()
    own = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    for option in options:
        if option not in own:
            raise ValueError(f"{owner} has no option {option!r}; {nearest(option, own)}")


def shown(value: object) -> str:
    """A value of any size and depth for a message."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 100
    short.maxlist, short.maxlevel = 16, 3
    return short.repr(value)


def one_line(text: str, longest: int = 1000) -> str:
    """A text for a terminal: one line, cut in its middle, with escapes for all that is not printed."""
    half = longest // 2
    if len(text) > 4 * longest:  # whatever is in the middle is left out anyway
        text = f"{text[: 2 * longest]} ... {text[-2 * longest :]}"
    line = " ".join(text.split())
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in line)
    return line if len(line) <= longest else f"{line[:half]} ... {line[-half:]}"
