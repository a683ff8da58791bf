"""Where noise comes from: one generator per image, so that a picture depends on its own seed alone."""

from collections.abc import Sequence

import torch
from torch import Tensor


class NoiseSource:
    """Standard normal noise, drawn image by image on the CPU in fp32.

    Image i of a batch gets the draws that it would get alone, whatever the batch and the device. The initial latent
    is the first draw; samplers draw the rest.

    Args:
        seeds: one per image, each in [0, 2^64). Consecutive pictures of a run with seed s have the seeds s, s + 1, ...
        shape: of one image, `(C, h, w)`.
        device: where the drawn noise is put.

    Raises:
        ValueError: no seeds, or a seed out of range.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        for seed in seeds:
            if not 0 <= seed < 2**64:
                raise ValueError(f"seed={seed} is out of range; use 0 to {2**64 - 1}")
        self._prepare([torch.Generator().manual_seed(seed) for seed in seeds], shape, device)

    @classmethod
    def from_generators(
        cls, generators: Sequence[torch.Generator], shape: Sequence[int], device: torch.device | str = "cpu"
    ) -> "NoiseSource":
        """The same from CPU generators as they stand, one per image; drawing moves them on."""
        source = cls.__new__(cls)
        source._prepare(generators, shape, device)
        return source

    def _prepare(self, generators: Sequence[torch.Generator], shape: Sequence[int], device: torch.device | str) -> None:
        if not generators:
            raise ValueError("seeds is empty; give one seed per image")
        self._generators, self._shape, self._device = list(generators), tuple(shape), torch.device(device)

    def __call__(self) -> Tensor:
        """The next draw `(B, C, h, w)`."""
        draws = [torch.randn(self._shape, generator=generator, dtype=torch.float32) for generator in self._generators]
        return torch.stack(draws).to(self._device)
