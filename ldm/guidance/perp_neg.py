"""Perp-Neg: negative prompts that take nothing away from the positive one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from conditioning.bundle import Conditioning
from ldm.denoiser import ConditionalDenoiser, Prediction
from ldm.guidance.chain import Guidance, GuidedDenoiser, NetworkPass, Predictions, fit_batch, plain
from ldm.guidance.interval import WHOLE, Interval, check_finite
from ldm.guidance.projected import projection_share


class PerpNeg(Guidance):
    """empty + scale * (positive - negative_scale * perpendicular) (Armandpour et al. 2023, "Perp-Neg").

    Directions are counted from the empty prompt; `perpendicular` is the sum of the negatives' parts that are orthogonal
    to the positive direction, sample by sample. With no negatives left this is `ClassifierFreeGuidance` from the empty
    prompt. One pass over (2 + negatives) B, the empty prompt first, then the negatives.

    Args:
        denoiser: must carry the prompt's conditioning, batch B.
        empty: conditioning of the empty prompt, batch B or 1.
        negatives: conditionings of the negative prompts, batch B or 1 each.
        scale: as in `ClassifierFreeGuidance`.
        negative_scale: weight of the negatives; 0 leaves them out, and their passes too.
        interval: see `Guidance`.

    Raises:
        ValueError: names the argument that is out of range, or the batch sizes that differ.
    """

    def __init__(
        self,
        denoiser: ConditionalDenoiser | GuidedDenoiser,
        empty: Conditioning,
        negatives: Sequence[Conditioning],
        scale: float,
        negative_scale: float = 1.0,
        interval: Interval = WHOLE,
    ) -> None:
        check_finite("guidance_scale", scale)
        check_finite("perp_neg_scale", negative_scale)
        super().__init__(denoiser, interval)
        self.scale, self.negative_scale = float(scale), float(negative_scale)
        self._empty = NetworkPass(self.source, fit_batch(empty, self.source, "empty"))
        used = negatives if negative_scale != 0 else ()
        self._negatives = tuple(NetworkPass(self.source, fit_batch(each, self.source)) for each in used)
        self.neutral = scale == 1 and not self._negatives

    def _questions(self, inner: tuple[NetworkPass, ...], x: Tensor, t: float) -> tuple[NetworkPass, ...]:
        return (self._empty, *self._negatives, *inner)

    def _answer(self, inner: Prediction, x: Tensor, t: float, predictions: Predictions) -> Prediction:
        empty = predictions[self._empty]
        x0 = torch.lerp(empty.x0, inner.x0, self.scale)
        eps = torch.lerp(empty.eps, inner.eps, self.scale)
        weight = self.scale * self.negative_scale
        for network_pass in self._negatives:
            negative = predictions[network_pass]
            share = projection_share(negative.x0 - empty.x0, inner.x0 - empty.x0).to(x0.dtype)
            x0 = x0 - weight * (negative.x0 - empty.x0 - share * (inner.x0 - empty.x0))
            eps = eps - weight * (negative.eps - empty.eps - share * (inner.eps - empty.eps))
        return Prediction(x0, eps, plain(inner), empty)
