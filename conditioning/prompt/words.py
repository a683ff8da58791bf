"""The words of texts, to say which of a prompt a model has never been trained on."""

import re
from collections.abc import Iterable

_PICTOGRAPHS = "\u2600-\u27bf\U0001f000-\U0001faff"
_WORD = re.compile(rf"[^\W\d_]+|[{_PICTOGRAPHS}]")


def words_of(texts: Iterable[str]) -> frozenset[str]:
    """All words of texts, in lower case: runs of letters of any script, and single emoji."""
    return frozenset(word for text in texts for word in _WORD.findall(text.casefold()))
