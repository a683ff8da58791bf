"""Damage as the numbers that a restorer is given or finds: which kinds, and how strong in the range it learned."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.degradation.levels import check, number
from ldm.degradation.noises import Gaussian, Poisson, SaltAndPepper, Speckle
from ldm.degradation.operations import KINDS as OPERATIONS
from ldm.degradation.operations import Blur, Down, Jpeg, Operation
from ldm.naming import look_up

AUTO = "auto"


@dataclass(frozen=True)
class Kind:
    """A kind of damage with a level that has a weakest and a strongest value.

    Attributes:
        weakest, strongest: levels that are trained, as texts have them.
        share: level -> how strong, 0 to 1; monotone.
        level: its inverse.
        range: of levels that a restorer can be told, in words.
        words: a level in words; `{}` is its number.
    """

    weakest: float
    strongest: float
    share: Callable[[float], float]
    level: Callable[[float], float]
    range: str
    words: str


def _linear(strongest: float, range: str, words: str) -> Kind:
    return Kind(0, strongest, lambda level: level / strongest, lambda share: share * strongest, range, words)


KINDS: Mapping[str, Kind] = {
    "gaussian": _linear(60, "a standard deviation from 0 to 60, of 255", "gaussian noise {:.0f}"),
    "salt_and_pepper": _linear(0.3, "a share from 0 to 0.3", "salt and pepper {:.1%}"),
    "speckle": _linear(0.3, "a standard deviation from 0 to 0.3", "speckle {:.2f}"),
    "poisson": Kind(
        *(60, 5, lambda peak: math.sqrt(5 / peak), lambda share: 5 / max(share, 0.01) ** 2),
        range="a number of quanta of at least 5",
        words="poisson noise {:.0f}",
    ),
    "jpeg": Kind(
        *(95, 10, lambda quality: (100 - quality) / 90, lambda share: 100 - 90 * share),
        range="a whole quality from 10 to 100",
        words="jpeg quality {:.0f}",
    ),
    "blur": _linear(3, "pixels from 0 to 3", "blur {:.1f}"),
    "resize": Kind(
        *(1, 4, lambda factor: math.log2(factor) / 2, lambda share: 4**share),
        range="a factor from 1 to 4",
        words="enlarged {:.1f} times",
    ),
}
"""What restorers are trained on: levels go from no or the weakest damage to the strongest."""


def parse_damage(text: str | None, kinds: Sequence[str] = tuple(KINDS)) -> dict[str, float | None] | None:
    """Kinds and levels of a text such as `jpeg,blur=2`, None for a level that is unknown; None for `auto` or None.

    Args:
        text: as a person wrote it.
        kinds: that may be named.

    Raises:
        ValueError: an unknown kind, of which it names the nearest, one that is there twice, or a level that no
            restorer learned.
    """
    if text is None or text.strip() == AUTO:
        return None
    damage: dict[str, float | None] = {}
    for each in text.split(","):
        written, equals, level = each.strip().partition("=")
        name = written.strip().replace("-", "_")
        look_up("kind of damage", name, dict.fromkeys((*kinds, AUTO)))
        if name == AUTO or name in damage:
            raise ValueError(f"{text}: {name} {'stands alone' if name == AUTO else 'is there twice'}; leave it out")
        damage[name] = _level(name, level.strip()) if equals else None
    return damage


def _level(name: str, text: str) -> float:
    """The level of a kind. Raises ValueError as `parse_damage`."""
    kind = KINDS[name]
    if name in ("resize", "blur"):
        level = number(name, text, "2")
        check(name, level, level >= kind.weakest, kind.range)
    else:
        known = named(OPERATIONS[name].parse(text))
        assert known is not None
        level = known[1]
    check(name, level, 0 <= kind.share(level) <= 1 + 1e-9, kind.range)
    return level


def in_words(damage: Mapping[str, float]) -> str:
    """Kinds and levels for a person, such as `gaussian noise 25 and jpeg quality 30`, or `no damage`."""
    return " and ".join(KINDS[name].words.format(level) for name, level in damage.items()) or "no damage"


def named(operation: Operation) -> tuple[str, float] | None:
    """Kind and level of an operation; None where it only writes a file, or restores a size."""
    match operation:
        case Gaussian(sd=level) | SaltAndPepper(share=level) | Speckle(sd=level) | Poisson(peak=level):
            return operation.name, level
        case Jpeg(quality=quality):
            return operation.name, quality
        case Blur(sigma=sigma, other=other):
            return operation.name, math.sqrt(sigma * (sigma if other is None else other))
        case Down(factor=factor):
            return "resize", factor
        case _:
            return None


def shares(damage: Iterable[Operation] | Mapping[str, float], kinds: Sequence[str]) -> Tensor:
    """How strong each kind is, (K,) in [0, 1]; 0 where it is not there.

    Args:
        damage: operations, or levels by kind.
        kinds: in the order of a network's conditions.
    """
    levels = damage.items() if isinstance(damage, Mapping) else filter(None, map(named, damage))
    strength = torch.zeros(len(kinds))
    for kind, level in levels:
        strength[kinds.index(kind)] = min(max(KINDS[kind].share(level), 0.0), 1.0)
    return strength


def conditions(strength: Tensor) -> Tensor:
    """Strengths (K,) as a network is told them, (2 K,): which kinds are there, then how strong."""
    return torch.cat([(strength > 0).float(), strength])
