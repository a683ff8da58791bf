"""Hard negatives for contrastive training: captions with one word exchanged that changes the picture."""

import re

import torch

# Words of one group exclude each other: a picture that shows one does not show the other. Neighbours are most alike.
EXCLUSIVE: tuple[tuple[str, ...], ...] = (
    ("left", "right"),
    ("above", "below"),
    ("over", "under"),
    ("up", "down"),
    ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    ("1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"),
    ("yellow", "orange", "red", "brown", "pink", "purple", "blue", "green", "black", "gray", "white"),
    ("light", "dark"),
    ("man", "woman"),
    ("boy", "girl"),
    ("men", "women"),
)
_GROUP_OF = {word: group for group in EXCLUSIVE for word in group}
_WORD = re.compile(r"\b(?:[a-z]+|[0-9]+)\b")
_NEAREST = 4


def hard_negative(caption: str, generator: torch.Generator) -> str | None:
    """The caption with one exclusive word exchanged for a near one of its group; None when it has no such word.

    "a fox left of a rocket" -> "a fox right of a rocket". A contrastive model that reads a caption as a bag of words
    cannot tell the two apart from their mirror images, so this negative makes it keep order, counts and colours
    (Yuksekgonul et al. 2023, arXiv:2210.01936, sec. 4). The words are English and lower-case.
    """
    places = [match for match in _WORD.finditer(caption) if match.group() in _GROUP_OF]
    if not places:
        return None
    place = places[_below(len(places), generator)]
    others = _alike(place.group())
    return caption[: place.start()] + others[_below(len(others), generator)] + caption[place.end() :]


def _alike(word: str) -> list[str]:
    group = _GROUP_OF[word]
    at = group.index(word)
    others = [other for other in group if other != word]
    return sorted(others, key=lambda other: abs(group.index(other) - at))[:_NEAREST]


def _below(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (1,), generator=generator))
