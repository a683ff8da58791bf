"""A denoiser whose own conditioning is several, asked together and mixed."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from conditioning.bundle import Conditioning
from ldm.denoiser import ConditionalDenoiser, Prediction
from ldm.networks.unet.blocks import AttentionHook
from ldm.process import Process

_Row = tuple[Conditioning | None, AttentionHook | None]

MixtureWeight = Tensor | float
"""A number, or a map that broadcasts to `(B, 1, h, w)`."""


class Mixture(ABC):
    """A `ConditionalDenoiser` that answers for its own conditioning with a weighted sum of what several give.

    Other conditionings (negative prompts) are asked as they are. Everything is asked in one network call, the same
    conditioning (the same object) once, and guidance wraps a mixture like any denoiser.

    Args:
        denoiser: told the prompt of the whole picture, batch B.
    """

    def __init__(self, denoiser: ConditionalDenoiser) -> None:
        self._denoiser = denoiser

    @property
    def process(self) -> Process:
        """The wrapped denoiser's process."""
        return self._denoiser.process

    @property
    def prediction_type(self) -> str:
        """The wrapped denoiser's."""
        return self._denoiser.prediction_type

    @property
    def conditioning(self) -> Conditioning | None:
        """What the whole picture was told."""
        return self._denoiser.conditioning

    @property
    def self_attention_layers(self) -> tuple[str, ...]:
        """The wrapped denoiser's."""
        return self._denoiser.self_attention_layers

    def __call__(self, x: Tensor, t: float) -> Prediction:
        """The mixed prediction for x `(B, C, h, w)` at time t."""
        return self.predict(x, t, [None])[0]

    def predict(
        self,
        x: Tensor,
        t: float,
        conditionings: Sequence[Conditioning | None],
        hooks: Sequence[AttentionHook | None] = (),
    ) -> list[Prediction]:
        """See `ConditionalDenoiser.predict`; None is the mixture, every part of which gets the question's hook."""
        parts = self._parts(x)
        requested = list(zip(conditionings, hooks or [None] * len(conditionings), strict=True))
        rows: dict[_Row, None] = {}  # a set in order: what is a part and is requested too is predicted once
        for conditioning, hook in requested:
            rows |= dict.fromkeys([(conditioning, hook)] if conditioning else [(part, hook) for part, _ in parts])
        made = self._denoiser.predict(x, t, [conditioning for conditioning, _ in rows], [hook for _, hook in rows])
        predictions = dict(zip(rows, made, strict=True))
        return [
            predictions[conditioning, hook]
            if conditioning
            else _mix([(predictions[part, hook], w) for part, w in parts])
            for conditioning, hook in requested
        ]

    @abstractmethod
    def _parts(self, x: Tensor) -> list[tuple[Conditioning | None, MixtureWeight]]:
        """(conditioning, weight) of each part; None is the wrapped denoiser's own. The weights add up to 1."""


def _mix(parts: list[tuple[Prediction, MixtureWeight]]) -> Prediction:
    x0 = sum((part.x0 * weight for part, weight in parts[1:]), parts[0][0].x0 * parts[0][1])
    eps = sum((part.eps * weight for part, weight in parts[1:]), parts[0][0].eps * parts[0][1])
    return Prediction(x0, eps)
