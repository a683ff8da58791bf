"""A denoiser whose own conditioning is several, predicted together and mixed."""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from conditioning.bundle import Conditioning
from ldm.denoiser import Prediction
from ldm.guidance.around import Around
from ldm.networks.attention import AttentionHook
from ldm.networks.network import Residuals

_Row = tuple[Conditioning | None, AttentionHook | None, Residuals | None]

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
        hooks: Sequence[AttentionHook | None] = (),
        residuals: Sequence[Residuals | None] = (),
    ) -> list[Prediction]:
        """See `ConditionalDenoiser.predict`; None is the mixture, every part of which gets its hook and residuals."""
        parts, nothing = self._parts(x), [None] * len(conditionings)
        requested: list[_Row] = list(zip(conditionings, hooks or nothing, residuals or nothing, strict=True))
        rows: dict[_Row, None] = {}  # a set in order: what is a part and is requested too is predicted once
        for conditioning, hook, residual in requested:
            sources = [conditioning] if conditioning else [part for part, _ in parts]
            rows |= dict.fromkeys((source, hook, residual) for source in sources)
        made = self._denoiser.predict(
            x, t, [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
        )
        predictions = dict(zip(rows, made, strict=True))
        return [
            predictions[conditioning, hook, residual]
            if conditioning
            else _mix([(predictions[part, hook, residual], weight) for part, weight in parts])
            for conditioning, hook, residual in requested
        ]

    @abstractmethod
    def _parts(self, x: Tensor) -> list[tuple[Conditioning | None, MixtureWeight]]:
        """(conditioning, weight) of each part; None is the wrapped denoiser's own. The weights add up to 1."""


def _mix(parts: list[tuple[Prediction, MixtureWeight]]) -> Prediction:
    x0 = sum((part.x0 * weight for part, weight in parts[1:]), parts[0][0].x0 * parts[0][1])
    eps = sum((part.eps * weight for part, weight in parts[1:]), parts[0][0].eps * parts[0][1])
    return Prediction(x0, eps)
