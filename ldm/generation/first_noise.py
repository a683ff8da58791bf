"""What pictures begin with where it is not their seeds' noise: a file's, a tensor's, or one varied towards another."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ldm.noise import NoiseSource, slerp

if TYPE_CHECKING:
    from ldm.generation.request import Request


@dataclass(frozen=True, eq=False)
class FirstNoise:
    """The first noise of each picture of a drawing; as it stands, that of their seeds.

    Attributes:
        variation_seeds: one per picture, towards which the seeds' noise is turned.
        strength: how far, 0 to 1.
        latents: (B, C, h, w) of variance 1 in place of the seeds' noise.
        names: of the file and place that each of `latents` comes from, for recipes.
    """

    variation_seeds: Sequence[int] = ()
    strength: float = 0.0
    latents: Tensor | None = None
    names: Sequence[str] = ()

    @classmethod
    def of(cls, request: "Request", count: int, size: tuple[int, int, int], has_generator: bool) -> "FirstNoise":
        """What a request says of it.

        Args:
            request: its `variation_seed`, `variation_strength` and `latents`.
            count: of pictures.
            size: (C, h, w) of one.
            has_generator: the noise comes from generators.

        Raises:
            ValueError: settings that exclude each other, or a file without fitting noise.
            OSError: a file that is missing, or is not the one that a recipe names.
        """
        strength = float(request.variation_strength)
        if strength and has_generator:
            raise ValueError(f"variation_strength={strength:g} varies a seed's noise; give a seed, not a generator")
        if strength and request.latents is not None:
            raise ValueError(f"variation_strength={strength:g} varies a seed's noise, which latents replace; give one")
        if request.latents is not None:
            from ldm.io.noise_file import NoiseFile

            latents, files = NoiseFile.parse(request.latents).read(count, size)
            return cls(latents=latents, names=[str(file) for file in files])
        if not strength:
            return cls()
        first = draw_seed() if request.variation_seed is None else request.variation_seed
        return cls([first + i for i in range(count)], strength)

    @classmethod
    def given(cls, latents: Tensor, count: int, size: tuple[int, int, int]) -> "FirstNoise":
        """A tensor's (B, C, h, w), in place of everything else.

        Raises:
            ValueError: another shape.
        """
        if tuple(latents.shape) != (count, *size):
            raise ValueError(f"latents are {tuple(latents.shape)}; this call needs {(count, *size)}")
        return cls(latents=latents)

    def __call__(self, noise: Tensor, rows: Sequence[int]) -> Tensor:
        """The first noise (b, C, h, w) of some pictures, on the device of `noise`, which is their seeds'."""
        if self.latents is not None:
            return self.latents[list(rows)].to(noise.device, torch.float32)
        if not self.strength:
            return noise
        others = NoiseSource([self.variation_seeds[row] for row in rows], noise.shape[1:])()
        pairs = zip(noise.cpu(), others, strict=True)  # on the CPU, as all noise: every device has the same
        return torch.stack([slerp(own, other, self.strength) for own, other in pairs]).to(noise.device)

    def recipe(self, number: int) -> dict[str, Any]:
        """The fields of picture `number`'s recipe; a variation without strength is none."""
        return {
            "variation_seed": self.variation_seeds[number] if self.strength else None,
            "variation_strength": self.strength,
            "latents": self.names[number] if self.names else None,
        }


def with_seeds(request: "Request") -> "Request":
    """The request with its random seeds drawn, so that `later` can count them up."""
    if request.variation_strength and request.variation_seed is None:
        request = replace(request, variation_seed=draw_seed())
    return replace(request, seed=draw_seed()) if request.seed is None else request


def later(request: "Request", number: int) -> "Request":
    """A request with seeds, whose first picture begins as picture `number` of it does."""
    if request.latents is not None and number:
        from ldm.io.noise_file import NoiseFile

        file = NoiseFile.parse(request.latents)
        request = replace(request, latents=str(replace(file, index=file.index + number)))
    if request.variation_strength:
        return replace(request, variation_seed=(request.variation_seed or 0) + number)
    return replace(request, seed=(request.seed or 0) + number)


def draw_seed() -> int:
    """A seed by lot, short enough to be typed."""
    return secrets.randbelow(2**32)
