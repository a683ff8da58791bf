"""Levels of operations in texts: numbers, and what is out of range."""


def check(name: str, value: float, allowed: bool, range_: str) -> None:
    """Refuse a level that is out of range.

    Raises:
        ValueError: it is not allowed; says what is.
    """
    if not allowed:
        raise ValueError(f"{name}={value:g} is out of range; use {range_}")


def number(name: str, text: str, example: str) -> float:
    """A level that is a number.

    Raises:
        ValueError: it is none; shows an example.
    """
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name}={text} is no number; write it as {name}={example}") from None


def whole(name: str, text: str, example: str) -> int:
    """A level that is a whole number.

    Raises:
        ValueError: it is none; shows an example.
    """
    value = number(name, text, example)
    if not value.is_integer():
        raise ValueError(f"{name}={text} is no whole number; write it as {name}={example}")
    return int(value)
