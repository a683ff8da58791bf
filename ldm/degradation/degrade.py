"""A list of operations that spoil pictures, in order, with a seed: equal pictures are spoilt in equal ways."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ldm.degradation.operations import Operation, parse_operation


@dataclass(frozen=True)
class Degrade:
    """Operations in the order in which they are applied.

    Attributes:
        operations: the first comes first.
        seed: of all random numbers.
    """

    operations: tuple[Operation, ...]
    seed: int = 0

    @classmethod
    def parse(cls, texts: str | Sequence[str], seed: int = 0) -> "Degrade":
        """From texts such as `blur=2` and `gaussian=5`, or one with commas between them.

        Raises:
            ValueError: as `parse_operation`.
        """
        listed = [each for each in texts.split(",") if each.strip()] if isinstance(texts, str) else texts
        return cls(tuple(map(parse_operation, listed)), seed)

    def __str__(self) -> str:
        return ",".join(map(str, self.operations))

    def record(self) -> dict[str, Any]:
        """What `from_record` reads, ready for JSON."""
        return {"operations": [str(each) for each in self.operations], "seed": self.seed}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Degrade":
        """The inverse of `record`."""
        return cls.parse([str(each) for each in record["operations"]], int(record["seed"]))

    def __call__(self, picture: Tensor, key: int = 0) -> Tensor:
        """picture (C, H, W) in [0, 1], fp32, C of 1 to 4 -> the spoilt one, neither clipped nor rounded if not stated.

        The last of 2 or 4 channels is alpha, which only changes with the size; colours are mixed by its weight.

        Args:
            picture: to be spoilt.
            key: pictures with another key have other noise; it depends on nothing else but the seed.

        Raises:
            ValueError: an operation does not fit the size.
        """
        colours, alpha = (picture[:-1], picture[-1:]) if len(picture) in (2, 4) else (picture, None)
        for place, operation in enumerate(self.operations):
            generator = _generator(self.seed, key, place)
            if alpha is None or not operation.spatial:
                colours = operation.apply(colours, generator)
                continue
            spread = operation.apply(alpha, generator)
            mixed = operation.apply(colours * alpha, generator) / spread.clamp(min=1e-6)
            plain = operation.apply(colours, generator)
            colours = torch.where(spread > 1e-6, mixed, plain)
            alpha = alpha if spread.shape == alpha.shape else spread.clamp(0, 1)
        return colours if alpha is None else torch.cat([colours, alpha])


def _generator(*numbers: int) -> torch.Generator:
    """A CPU generator that shares nothing with those of other numbers."""
    digest = hashlib.sha256(":".join(map(str, numbers)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
