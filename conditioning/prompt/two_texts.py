"""Two texts in one: what the two towers of a pair read where these are not the same."""

_BETWEEN = "\x1f"
"""ASCII's unit separator, which is in no prompt."""


def two_texts(first: str, second: str | None) -> str:
    """The text that stands for both; without a second one, both towers read the first."""
    first = first.replace(_BETWEEN, " ")
    return first if second is None or second == first else f"{first}{_BETWEEN}{second.replace(_BETWEEN, ' ')}"


def text_of(text: str, tower: int) -> str:
    """What tower 0 or 1 reads of a text that `two_texts` made."""
    first, between, second = text.partition(_BETWEEN)
    return second if between and tower else first
