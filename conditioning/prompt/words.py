"""The words of texts, to say which of a prompt a model has never been trained on."""

import re
from collections.abc import Iterable

_WORD = re.compile(r"[^\W\d_]+")


def words_of(texts: Iterable[str]) -> frozenset[str]:
    """All words of texts, in lower case: runs of letters of any script."""
    return frozenset(word for text in texts for word in _WORD.findall(text.casefold()))
