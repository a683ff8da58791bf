"""Classifier-free guidance with a negative prompt."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from conditioning.bundle import Conditioning
from ldm.denoiser import ConditionalDenoiser, Prediction
from ldm.guidance.chain import Guidance, GuidedDenoiser, NetworkPass, Predictions, fit_batch, plain
from ldm.guidance.interval import WHOLE, Interval, check_finite, check_share
from ldm.guidance.rescale import rescaled


@dataclass(frozen=True)
class _Last:
    """What the prompt added to eps `(B, C, h, w)` when the negative last ran, at which time; how often it served."""

    added: Tensor | None
    t: float = 0.0
    served: int = 1

    def serves(self, x: Tensor, t: float, reuse: int) -> bool:
        """Whether it will do once more: not for gradients, another size, or on the way back to more noise."""
        if self.added is None or self.added.shape != x.shape or x.requires_grad:
            return False
        return t <= self.t and self.served < reuse

    def without(self, inner: Prediction, alpha: float, sigma: float) -> Prediction:
        """The negative's prediction that goes with it: alpha x0 + sigma eps is that of the inner one."""
        assert self.added is not None, "nothing was kept"
        return Prediction(inner.x0 + sigma / alpha * self.added, inner.eps - self.added)


_NONE = _Last(None)


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
        reuse: run the negative at every so many guided evaluations only, and between them keep what the prompt adds to
            the predicted noise (as FasterCache reuses it, Lv et al. 2024, arXiv 2410.19355); 1 is always. A walk needs
            an object of its own then.

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
        reuse: int = 1,
    ) -> None:
        check_reuse(reuse)
        check_share("guidance_rescale", rescale)
        check_finite("guidance_scale", scale)
        super().__init__(denoiser, interval)
        self.scale, self.rescale, self.neutral = float(scale), rescale, scale == 1
        self._negative = NetworkPass(self.source, fit_batch(negative, self.source))

        self._reuse, self._last = reuse, _NONE

    def _questions(self, inner: tuple[NetworkPass, ...], x: Tensor, t: float) -> tuple[NetworkPass, ...]:
        return inner if self._last.serves(x, t, self._reuse) else (self._negative, *inner)

    def _answer(self, inner: Prediction, x: Tensor, t: float, predictions: Predictions) -> Prediction:
        without = predictions.get(self._negative)
        if without is None:
            self._last = replace(self._last, served=self._last.served + 1)
            without = self._last.without(inner, *(level.item() for level in self.process.levels(t)))
        elif self._reuse > 1:
            self._last = _Last((inner.eps - without.eps).detach(), t)
        x0 = torch.lerp(without.x0, inner.x0, self.scale)
        eps = torch.lerp(without.eps, inner.eps, self.scale)
        return rescaled(Prediction(x0, eps, plain(inner), without), x, t, self.source, self.rescale)


def check_reuse(reuse: int) -> None:
    """Refuse what is no number of evaluations.

    Raises:
        ValueError: names it.
    """
    if not 1 <= reuse <= 1000:
        raise ValueError(f"guidance_reuse={reuse} is not possible; use 1 (off) to 1,000")
