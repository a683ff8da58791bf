"""Classifier-free guidance with a negative prompt."""

import torch
from torch import Tensor

from conditioning.bundle import Conditioning
from ldm.denoiser import ConditionalDenoiser, Prediction
from ldm.guidance.chain import Guidance, GuidedDenoiser, NetworkPass, Predictions, fit_batch, plain
from ldm.guidance.interval import WHOLE, Interval, check_finite, check_share
from ldm.guidance.rescale import rescaled


class ClassifierFreeGuidance(Guidance):
    """unconditional + scale * (conditional - unconditional) (Ho and Salimans 2022, eq. 6, with scale = 1 + w).

    Scale 1, and times outside the interval, are the conditional alone and cost a network pass over B; otherwise one
    pass over 2B holds both parts, the negative first.

    Args:
        denoiser: must carry the prompt's conditioning, batch B.
        negative: conditioning of the empty or negative prompt, batch B or 1.
        scale: 1 is no guidance, 0 the negative alone; any finite number.
        rescale: phi in [0, 1] of `rescale_contrast` on what the network predicts (`guidance_rescale` in diffusers).
        interval: the part of the way from noise (0) to picture (1), both ends included, on which to guide
            (Kynkaanniemi et al. 2024); measured by `Process.progress`, so it does not depend on the number of steps.

    Raises:
        ValueError: names the argument that is out of range, or the batch sizes that differ.
    """

    def __init__(
        self,
        denoiser: ConditionalDenoiser | GuidedDenoiser,
        negative: Conditioning,
        scale: float,
        rescale: float = 0.0,
        interval: Interval = WHOLE,
    ) -> None:
        check_share("guidance_rescale", rescale)
        check_finite("guidance_scale", scale)
        super().__init__(denoiser, interval)
        self.scale, self.rescale, self.neutral = float(scale), rescale, scale == 1
        self._negative = NetworkPass(self.source, fit_batch(negative, self.source))

    def _questions(self, inner: tuple[NetworkPass, ...], x: Tensor) -> tuple[NetworkPass, ...]:
        return (self._negative, *inner)

    def _answer(self, inner: Prediction, x: Tensor, t: float, predictions: Predictions) -> Prediction:
        without = predictions[self._negative]
        x0 = torch.lerp(without.x0, inner.x0, self.scale)
        eps = torch.lerp(without.eps, inner.eps, self.scale)
        return rescaled(Prediction(x0, eps, plain(inner), without), x, t, self.source, self.rescale)
