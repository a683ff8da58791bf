"""Captions that are almost right: one word that changes the picture is exchanged."""

import re

import torch

# Words of one group exclude each other: a picture that shows one does not show the other.
EXCLUSIVE: tuple[tuple[str, ...], ...] = (
    ("left", "right"),
    ("above", "below"),
    ("over", "under"),
    ("up", "down"),
    ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray"),
    ("light", "dark"),
    ("man", "woman"),
    ("boy", "girl"),
    ("men", "women"),
)
_GROUP_OF = {word: group for group in EXCLUSIVE for word in group}
_WORD = re.compile(r"[a-z]+")


def hard_negative(caption: str, generator: torch.Generator) -> str | None:
    """The caption with one of its exclusive words exchanged for another of its group, or None when it has no such word.

    "a fox left of a rocket" -> "a fox right of a rocket". A contrastive model that reads a caption as a bag of words
    cannot tell the two apart from their mirror images, so this negative makes it keep order, counts and colours
    (Yuksekgonul et al. 2023, arXiv:2210.01936, sec. 4). The words are English and lower-case.
    """
    places = [match for match in _WORD.finditer(caption) if match.group() in _GROUP_OF]
    if not places:
        return None
    place = places[_below(len(places), generator)]
    others = [word for word in _GROUP_OF[place.group()] if word != place.group()]
    return caption[: place.start()] + others[_below(len(others), generator)] + caption[place.end() :]


def _below(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (1,), generator=generator))
