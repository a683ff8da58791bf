"""A denoiser whose own conditioning is several, predicted together and mixed."""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from conditioning.bundle import Conditioning
from ldm.denoiser import Prediction
from ldm.guidance.around import Around
from ldm.networks.options import PLAIN, NetworkOptions

_Row = tuple[Conditioning | None, NetworkOptions]

MixtureWeight = Tensor | float
"""A number, or a map that broadcasts to `(B, 1, h, w)`."""


class Mixture(Around):
    """A `ConditionalDenoiser` whose own prediction is a weighted sum of those under several conditionings.

    Other conditionings (negative prompts) are left as they are. Everything is predicted in one network call, the same
    conditioning (the same object) once, and guidance wraps a mixture like any denoiser.

    Args:
        denoiser: conditioned on the prompt of the whole picture, batch B.
    """

    def predict(
        self,
        x: Tensor,
        t: float,
        conditionings: Sequence[Conditioning | None],
        options: Sequence[NetworkOptions] = (),
    ) -> list[Prediction]:
        """See `ConditionalDenoiser.predict`; None is the mixture, every part of which gets its options."""
        parts = self._parts(x)
        requested: list[_Row] = list(zip(conditionings, options or [PLAIN] * len(conditionings), strict=True))
        rows: dict[_Row, None] = {}  # a set in order: what is a part and is requested too is predicted once
        for conditioning, own in requested:
            sources = [conditioning] if conditioning else [part for part, _ in parts]
            rows |= dict.fromkeys((source, own) for source in sources)
        made = self._denoiser.predict(x, t, [row[0] for row in rows], [row[1] for row in rows])
        predictions = dict(zip(rows, made, strict=True))
        return [
            predictions[conditioning, own]
            if conditioning
            else _mix([(predictions[part, own], weight) for part, weight in parts])
            for conditioning, own in requested
        ]

    @abstractmethod
    def _parts(self, x: Tensor) -> list[tuple[Conditioning | None, MixtureWeight]]:
        """(conditioning, weight) of each part; None is the wrapped denoiser's own. The weights add up to 1."""


def _mix(parts: list[tuple[Prediction, MixtureWeight]]) -> Prediction:
    x0 = sum((part.x0 * weight for part, weight in parts[1:]), parts[0][0].x0 * parts[0][1])
    eps = sum((part.eps * weight for part, weight in parts[1:]), parts[0][0].eps * parts[0][1])
    return Prediction(x0, eps)
