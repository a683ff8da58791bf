"""Guidance by the picture that the network sees, InstructPix2Pix's second scale."""

from dataclasses import replace

import torch
from torch import Tensor

from conditioning.bundle import Conditioning
from ldm.denoiser import ConditionalDenoiser, Prediction
from ldm.guidance.chain import Guidance, GuidedDenoiser, NetworkPass, Predictions, fit_batch
from ldm.guidance.interval import WHOLE, Interval, check_finite


class PictureGuidance(Guidance):
    """+ (scale - 1) * (negative prompt with the picture - negative prompt without it).

    Around classifier-free guidance with the scale s_T this is blank + s_I (negative - blank) + s_T (prompt - negative)
    (Brooks et al. 2023, "InstructPix2Pix", equation 3), the third pass seeing zeros in place of the picture.

    Args:
        denoiser: plain or guided; its conditioning must carry a picture in `concat`.
        negative: conditioning of the negative prompt with the picture, batch B or 1.
        scale: s_I; 1 is as strong as the network learned it.
        interval: the part of the way on which to guide.

    Raises:
        ValueError: a network that sees no picture.
    """

    def __init__(
        self,
        denoiser: ConditionalDenoiser | GuidedDenoiser,
        negative: Conditioning,
        scale: float,
        interval: Interval = WHOLE,
    ) -> None:
        check_finite("image_guidance_scale", scale)
        super().__init__(denoiser, interval)
        self.scale, self.neutral = float(scale), scale == 1
        if negative.concat is None:
            raise ValueError(f"image_guidance_scale={scale:g} is for models that see a picture (InstructPix2Pix)")
        with_picture = fit_batch(negative, self.source)
        self._with = NetworkPass(self.source, with_picture)
        self._without = NetworkPass(self.source, replace(with_picture, concat=torch.zeros_like(negative.concat)))

    def _questions(self, inner: tuple[NetworkPass, ...], x: Tensor, t: float) -> tuple[NetworkPass, ...]:
        return (self._without, self._with, *inner)

    def _answer(self, inner: Prediction, x: Tensor, t: float, predictions: Predictions) -> Prediction:
        seen, blank, stronger = predictions[self._with], predictions[self._without], self.scale - 1
        return replace(
            inner,
            x0=inner.x0 + stronger * (seen.x0 - blank.x0),
            eps=inner.eps + stronger * (seen.eps - blank.eps),
        )
