"""Rescaling: guidance that does not blow up the contrast."""

from dataclasses import replace

from torch import Tensor

from ldm.denoiser import ConditionalDenoiser, Prediction, target, to_x0_eps
from ldm.guidance.chain import Guidance, GuidedDenoiser, Predictions
from ldm.guidance.interval import check_share


def rescale_contrast(guided: Tensor, conditional: Tensor, amount: float) -> Tensor:
    """Pull the standard deviation of a guided output back to the conditional one's (Lin et al. 2023, eq. 14 to 16).

    Args:
        guided: network outputs `(B, C, h, w)`; the deviation is taken over C, h, w of each sample.
        conditional: those without guidance, `(B, C, h, w)`.
        amount: 0 (leave as it is) to 1 (all the way), the paper's phi.
    """
    axes = tuple(range(1, guided.ndim))
    ratio = conditional.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True).clamp(min=1e-12)
    return guided * (amount * ratio + (1 - amount))


def rescaled(guided: Prediction, x: Tensor, t: float, source: ConditionalDenoiser, amount: float) -> Prediction:
    """`rescale_contrast` on what the network predicts, hence a function of its prediction type.

    A prediction that no guidance has changed stays as it is.
    """
    conditional = guided.conditional
    if amount == 0 or conditional is None or conditional.x0 is guided.x0:
        return guided
    kind = source.prediction_type
    alpha, sigma = (level.item() for level in source.process.levels(t))
    output, wanted = (target(each.x0, each.eps, alpha, sigma, kind) for each in (guided, conditional))
    x0, eps = to_x0_eps(rescale_contrast(output, wanted, amount), x.float(), alpha, sigma, kind)
    return replace(guided, x0=x0, eps=eps)


class Rescale(Guidance):
    """`rescaled` as a link: over all the guidance that it wraps (`guidance_rescale` in diffusers).

    Args:
        denoiser: the chain so far.
        amount: phi in [0, 1]; 0 changes nothing.

    Raises:
        ValueError: amount out of range.
    """

    def __init__(self, denoiser: ConditionalDenoiser | GuidedDenoiser, amount: float) -> None:
        check_share("guidance_rescale", amount)
        super().__init__(denoiser)
        self.amount, self.neutral = amount, amount == 0

    def _answer(self, inner: Prediction, x: Tensor, t: float, predictions: Predictions) -> Prediction:
        return rescaled(inner, x, t, self.source, self.amount)
