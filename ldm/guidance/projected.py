"""Adaptive projected guidance (APG): large scales without oversaturation."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from conditioning.bundle import Conditioning
from ldm.denoiser import ConditionalDenoiser, Prediction
from ldm.guidance.chain import Guidance, GuidedDenoiser, NetworkPass, Predictions, eps_following, fit_batch
from ldm.guidance.interval import WHOLE, Interval, check_finite
from ldm.process import Process


def projection_share(direction: Tensor, onto: Tensor) -> Tensor:
    """How much of `onto` is in `direction`: <direction, onto> / <onto, onto>, 0 where `onto` is zero.

    Args:
        direction: `(B, C, h, w)`.
        onto: `(B, C, h, w)`.

    Returns:
        `(B, 1, 1, 1)` in float64, for long sums of squares.
    """
    axes = tuple(range(1, direction.ndim))
    left, right = direction.double(), onto.double()
    square = right.square().sum(axes, keepdim=True)
    return (left * right).sum(axes, keepdim=True) / square.clamp(min=torch.finfo(torch.float64).tiny)


def project(direction: Tensor, onto: Tensor) -> tuple[Tensor, Tensor]:
    """(parallel, orthogonal) parts of `direction` relative to `onto`, all `(B, C, h, w)`."""
    parallel = projection_share(direction, onto) * onto.double()
    return parallel.to(direction.dtype), (direction.double() - parallel).to(direction.dtype)


class Momentum:
    """The running sum d_i + beta * (sum before), over one walk from noise to picture (Sadat et al. 2024, section 4).

    Samplers also call the denoiser on guesses, at the time of the next step or beyond it (Heun, churn). So the sum
    before is that of the last two calls which is earlier on the way than the present time; a guess is replaced by what
    comes of it. If both are later, a new walk begins: a new run, or restart sampling.
    """

    def __init__(self, beta: float) -> None:
        self.beta = beta
        self._past: list[tuple[float, Tensor]] = []

    def add(self, direction: Tensor, process: Process, t: float) -> Tensor:
        """The sum with the direction `(B, C, h, w)` of time t in it; the past carries no gradient."""
        if self.beta == 0:
            return direction
        progress = process.progress(t).item()
        earlier = [each for each in self._past if each[0] < progress and each[1].shape == direction.shape][-1:]
        total = direction + self.beta * earlier[0][1] if earlier else direction
        self._past = [*earlier, (progress, total.detach())]
        return total


class AdaptiveProjectedGuidance(Guidance):
    """conditional + (scale - 1) * (orthogonal + eta * parallel) (Sadat et al. 2024, "APG", section 4).

    The direction conditional - unconditional of x0, with momentum and its norm limited, is split along the conditional
    x0; the parallel part is what saturates. With eta 1, no limit and no momentum this is `ClassifierFreeGuidance`.
    One pass over 2B; scale 1 costs one over B.

    The momentum lives in this object: make one per run, as `guide` does. Two walks that alternate over one object would
    mix theirs; one after the other is fine.

    Args:
        denoiser: must carry the prompt's conditioning, batch B.
        negative: conditioning of the empty or negative prompt, batch B or 1.
        scale: w, as in `ClassifierFreeGuidance`; 10 to 15 in the paper.
        eta: weight of the parallel part.
        rescale: r, the largest L2 norm of the direction, over C, h, w of a sample; infinity, or 0 as in diffusers, is
            no limit. It grows with the root of the latent's size.
        momentum: beta, negative in the paper; 0 is none.
        interval: see `Guidance`.

    Raises:
        ValueError: names the argument that is out of range, or the batch sizes that differ.
    """

    def __init__(
        self,
        denoiser: ConditionalDenoiser | GuidedDenoiser,
        negative: Conditioning,
        scale: float,
        eta: float = 0.0,
        rescale: float = 15.0,
        momentum: float = -0.5,
        interval: Interval = WHOLE,
    ) -> None:
        check_finite("guidance_scale", scale)
        check_apg(eta, rescale, momentum)
        super().__init__(denoiser, interval)
        self.scale, self.eta, self.limit, self.neutral = float(scale), eta, rescale or math.inf, scale == 1
        self._momentum = Momentum(momentum)
        self._negative = NetworkPass(self.source, fit_batch(negative, self.source))

    def _questions(self, inner: tuple[NetworkPass, ...], x: Tensor, t: float) -> tuple[NetworkPass, ...]:
        return (self._negative, *inner)

    def _answer(self, inner: Prediction, x: Tensor, t: float, predictions: Predictions) -> Prediction:
        without = predictions[self._negative]
        direction = self._momentum.add(inner.x0 - without.x0, self.process, t)
        if self.limit < math.inf:
            norm = direction.flatten(1).norm(dim=1).view(-1, *[1] * (direction.ndim - 1))
            direction = direction * (self.limit / norm.clamp(min=self.limit))
        parallel, orthogonal = project(direction, inner.x0)
        x0 = inner.x0 + (self.scale - 1) * (orthogonal + self.eta * parallel)
        eps = eps_following(x0, inner, self.process, t)
        return replace(inner, x0=x0, eps=eps, unconditional=without)


def check_apg(eta: float, rescale: float, momentum: float) -> None:
    """Refuse numbers that APG cannot use.

    Raises:
        ValueError: names the argument.
    """
    check_finite("apg_eta", eta)
    if not rescale >= 0:
        raise ValueError(f"apg_rescale={rescale} must be at least 0 (0 is no limit)")
    if not -1 < momentum < 1:
        raise ValueError(f"apg_momentum={momentum} must be between -1 and 1, or the sum grows without end")
