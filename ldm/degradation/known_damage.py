"""Damage as the numbers that a restorer is given or finds: which kinds, and how strong in the range it learned."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.degradation.noises import Gaussian, Poisson, SaltAndPepper, Speckle
from ldm.degradation.operations import Blur, Down, Jpeg, Operation


@dataclass(frozen=True)
class Kind:
    """A kind of damage with a level that has a weakest and a strongest value.

    Attributes:
        weakest, strongest: levels, as texts have them.
        share: level -> how strong, 0 to 1; monotone.
        level: its inverse.
        form: how a level is shown.
    """

    weakest: float
    strongest: float
    share: Callable[[float], float]
    level: Callable[[float], float]
    form: str = ".0f"


def _linear(strongest: float, form: str) -> Kind:
    return Kind(0, strongest, lambda level: level / strongest, lambda share: share * strongest, form)


KINDS: Mapping[str, Kind] = {
    "gaussian": _linear(60, ".0f"),
    "salt_and_pepper": _linear(0.3, ".2f"),
    "speckle": _linear(0.3, ".2f"),
    "poisson": Kind(60, 5, lambda peak: math.sqrt(5 / peak), lambda share: 5 / max(share, 0.05) ** 2),
    "jpeg": Kind(95, 10, lambda quality: (100 - quality) / 90, lambda share: 100 - 90 * share),
    "blur": _linear(3, ".1f"),
    "resize": Kind(1, 4, lambda factor: math.log2(factor) / 2, lambda share: 4**share, ".1f"),
}
"""What restorers are trained on: levels go from no or the weakest damage to the strongest."""


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


def shares(operations: Iterable[Operation], kinds: Sequence[str]) -> Tensor:
    """How strong each kind is that operations contain, (K,) in [0, 1]; 0 where it is not there."""
    strength = torch.zeros(len(kinds))
    for kind, level in filter(None, map(named, operations)):
        strength[kinds.index(kind)] = min(max(KINDS[kind].share(level), 0.0), 1.0)
    return strength
