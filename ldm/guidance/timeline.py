"""A denoiser that is replaced by another one at given times of the sampling."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from ldm.denoiser import Denoiser, Prediction
from ldm.process import Process


class Timeline:
    """Different denoisers for different stretches of time, e.g. for prompts that change (`[cat:dog:0.4]`, `[cat|dog]`).

    Args:
        segments: (last time, denoiser), from noise to picture. A segment serves the times down to its last one, itself
            included; the last segment serves all that is left.

    Raises:
        ValueError: no segments, last times that do not fall, or denoisers of different processes.
    """

    def __init__(self, segments: Sequence[tuple[float, Denoiser]]) -> None:
        if not segments:
            raise ValueError("segments is empty; a timeline needs at least one")
        for (before, first), (after, second) in pairwise(segments):
            if not after < before:
                raise ValueError(f"segments end at {before:g} and then at {after:g}; last times must fall")
            if second.process != first.process:
                raise ValueError(f"segments have the processes {first.process} and {second.process}; use one")
        self._segments = tuple(segments)

    @property
    def process(self) -> Process:
        """The process of all segments."""
        return self._segments[0][1].process

    def __call__(self, x: Tensor, t: float) -> Prediction:
        """The prediction of the denoiser of time t for x `(B, C, h, w)`."""
        for last, denoiser in self._segments[:-1]:
            if t >= last:
                return denoiser(x, t)
        return self._segments[-1][1](x, t)
