"""Thresholding: keep the predicted picture within the range that pictures have."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from ldm.denoiser import ConditionalDenoiser, Prediction
from ldm.guidance.chain import Guidance, GuidedDenoiser, Predictions
from ldm.guidance.interval import WHOLE, Interval


def threshold(x0: Tensor, ratio: float, maximum: float = math.inf) -> Tensor:
    """Dynamic thresholding: clip to [-s, s] and divide by s (Saharia et al. 2022, "Imagen", section 2.3).

    Args:
        x0: `(B, C, h, w)`, pictures in [-1, 1] when all is well.
        ratio: s is this quantile of |x0| in a sample, 0 to 1, and at least 1.
        maximum: s is at most this; 1 makes it a static clip.
    """
    limit = torch.quantile(x0.abs().flatten(1), ratio, dim=1).clamp(1.0, maximum)
    limit = limit.view(-1, *[1] * (x0.ndim - 1))
    return x0.clamp(-limit, limit) / limit


class DynamicThresholding(Guidance):
    """`threshold` on x0 (diffusers' `thresholding=True`), against the saturation that large scales bring.

    eps stays as it was, as in diffusers' schedulers; samplers that lean on x and x0 do not look at it. Meant for models
    of pixels: latents have no range to be kept in.

    Args:
        denoiser: the chain so far.
        ratio: the quantile, `dynamic_thresholding_ratio` in diffusers.
        maximum: at least 1; `sample_max_value` in diffusers, where the default of 1 makes it a static clip.
        interval: see `Guidance`.

    Raises:
        ValueError: names the argument that is out of range.
    """

    def __init__(
        self,
        denoiser: ConditionalDenoiser | GuidedDenoiser,
        ratio: float = 0.995,
        maximum: float = math.inf,
        interval: Interval = WHOLE,
    ) -> None:
        check_thresholding(ratio, maximum)
        super().__init__(denoiser, interval)
        self.ratio, self.maximum = ratio, maximum

    def _answer(self, inner: Prediction, x: Tensor, t: float, predictions: Predictions) -> Prediction:
        return replace(inner, x0=threshold(inner.x0, self.ratio, self.maximum))


class StaticThresholding(Guidance):
    """x0 clipped to [-limit, limit] (`clip_sample` and `clip_sample_range` in diffusers); eps stays as it was.

    Args:
        denoiser: the chain so far.
        limit: above 0.
        interval: see `Guidance`.

    Raises:
        ValueError: a limit that is not positive.
    """

    def __init__(
        self, denoiser: ConditionalDenoiser | GuidedDenoiser, limit: float = 1.0, interval: Interval = WHOLE
    ) -> None:
        check_clip(limit)
        super().__init__(denoiser, interval)
        self.limit = limit

    def _answer(self, inner: Prediction, x: Tensor, t: float, predictions: Predictions) -> Prediction:
        return replace(inner, x0=inner.x0.clamp(-self.limit, self.limit))


def check_thresholding(ratio: float, maximum: float) -> None:
    """Refuse numbers that dynamic thresholding cannot use.

    Raises:
        ValueError: names the argument.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"dynamic_thresholding_ratio={ratio} must be above 0 and at most 1")
    if not maximum >= 1:
        raise ValueError(f"sample_max_value={maximum} must be at least 1")


def check_clip(limit: float) -> None:
    """Refuse a limit of 0 or less.

    Raises:
        ValueError: names the argument.
    """
    if not limit > 0:
        raise ValueError(f"clip_sample_range={limit} must be above 0")
