"""CFG++: guide the picture, but put back the noise that the unconditional part sees."""

from dataclasses import replace

from torch import Tensor

from conditioning.bundle import Conditioning
from ldm.denoiser import ConditionalDenoiser, Prediction
from ldm.guidance.chain import Guidance, GuidedDenoiser, NetworkPass, Predictions, fit_batch
from ldm.guidance.interval import WHOLE, Interval
from ldm.samplers.table import SAMPLER_TABLE

CFG_PLUS_PLUS_SAMPLERS = tuple(name for name, info in SAMPLER_TABLE.items() if info.cfg_plus_plus)
"""The samplers for which CFG++ is derived."""


class CFGPlusPlus(Guidance):
    """The guided x0 with the unconditional eps (Chung et al. 2024, "CFG++", algorithm 2).

    x' = alpha' x0_guided + sigma' eps_unconditional, and the guided x0 is an interpolation: the scale of the
    `ClassifierFreeGuidance` beneath is the paper's lambda in [0, 1] (0.6 is about a guidance_scale of 7.5). The
    outermost link, since what it returns is no longer consistent with x. For `CFG_PLUS_PLUS_SAMPLERS`.

    Args:
        denoiser: the guidance whose x0 is used.
        negative: what the guidance beneath holds for unconditional. The same object costs no pass of its own.
        interval: see `Guidance`.
    """

    def __init__(
        self,
        denoiser: ConditionalDenoiser | GuidedDenoiser,
        negative: Conditioning,
        interval: Interval = WHOLE,
    ) -> None:
        super().__init__(denoiser, interval)
        self._negative = NetworkPass(self.source, fit_batch(negative, self.source))

    def _questions(self, inner: tuple[NetworkPass, ...], x: Tensor, t: float) -> tuple[NetworkPass, ...]:
        return (self._negative, *inner)

    def _answer(self, inner: Prediction, x: Tensor, t: float, predictions: Predictions) -> Prediction:
        without = predictions[self._negative]
        return replace(inner, eps=without.eps, unconditional=without)
