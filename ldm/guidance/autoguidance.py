"""Autoguidance: away from a bad version of the model itself."""

from torch import Tensor

from ldm.denoiser import ConditionalDenoiser, Prediction
from ldm.guidance.chain import Guidance, GuidedDenoiser, NetworkPass, Predictions, push_away
from ldm.guidance.interval import WHOLE, Interval, check_finite


class Autoguidance(Guidance):
    """weak + scale * (conditional - weak): away from the prediction of a weaker model.

    Karras et al. 2024, "Guiding a diffusion model with a bad version of itself", eq. 3.
    Around other guidance, (scale - 1) * (conditional - weak) is added to it. One network call over B to each of the
    two models; scale 1 does not run the weak one.

    Args:
        denoiser: the model, or the chain so far.
        weak: a smaller or less trained model of the same process, conditioned on the same prompt; any prediction type.
        scale: 1 is off.
        interval: see `Guidance`.

    Raises:
        ValueError: names the argument that is out of range; another process, in whose coordinates x is not.
    """

    def __init__(
        self,
        denoiser: ConditionalDenoiser | GuidedDenoiser,
        weak: ConditionalDenoiser,
        scale: float,
        interval: Interval = WHOLE,
    ) -> None:
        check_finite("autoguidance_scale", scale)
        super().__init__(denoiser, interval)
        if weak.process != self.process:
            raise ValueError(f"autoguidance needs models of one process; these have {self.process} and {weak.process}")
        self.scale, self.neutral = float(scale), scale == 1
        self._weak = NetworkPass(weak)

    def _questions(self, inner: tuple[NetworkPass, ...], x: Tensor, t: float) -> tuple[NetworkPass, ...]:
        return (*inner, self._weak)

    def _answer(self, inner: Prediction, x: Tensor, t: float, predictions: Predictions) -> Prediction:
        return push_away(inner, predictions[self._weak], self.scale - 1)
