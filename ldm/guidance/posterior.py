"""Sampling from the posterior of a picture, given a measurement of it: a step of one family of methods."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ldm.denoiser import Denoiser, Prediction
from ldm.operators.operator import Operator
from ldm.process import Process
from ldm.samplers import Noise

_LAMBDAS = (-0.5, 1.5)
_LITTLE = 0.1
Condition = Callable[[Tensor, float], Tensor]
"""(predicted x0 (B, C, h, w), time) -> the x0 that agrees with what was measured."""


@dataclass(frozen=True)
class PosteriorMethod:
    """What tells the methods of the family apart: x0 is predicted, moved towards the measurement, and noised again.

    Attributes:
        variance: of the prediction, as the proximal step counts it: `error`, the denoiser's squared error at this
            noise; `ratio`, (sigma / alpha)^2; `inf`, whatever was measured is met wholly.
        renewed: the share of the noise's variance that is new noise; 1 forgets how x came about.
        implied: the rest is the noise that x and the changed x0 leave; else the noise that was predicted.
        sampled: x0 is a sample of its posterior, not the mean.
        eta: of `ddim`, which takes the steps.
    """

    variance: str
    renewed: float
    implied: bool = False
    sampled: bool = False
    eta: float = 0.0

    def r2(self, error: float, alpha: float, sigma: float) -> float:
        """The variance of the prediction.

        Args:
            error: the denoiser's squared error.
            alpha: scale of the picture.
            sigma: scale of the noise.
        """
        if self.variance == "error":
            return error
        return (sigma / alpha) ** 2 if self.variance == "ratio" and alpha > 0 else math.inf


POSTERIOR_METHODS = {
    "daps": PosteriorMethod("error", renewed=1.0, sampled=True),
    "diffpir": PosteriorMethod("ratio", renewed=1.0, implied=True),
    "ddnm": PosteriorMethod("inf", renewed=0.0, eta=0.85),
}
"""Zhang et al. 2024, "DAPS" (with the error in place of a chosen r); Zhu et al. 2023, "DiffPIR" (lambda = zeta = 1);
Wang et al. 2023, "DDNM", for measurements without noise."""


def posterior_grid(process: Process, n: int) -> Tensor:
    """The n + 1 times of a walk: pure noise, then even in lambda over the levels at which pictures take form.

    Noise is put back whole after each step, so that steps at little noise forget what those before have found: on
    correlated Gaussian data, 10 steps fill a hole with a bias of 0.18 deviations; down to sigma = 0.02, with 0.30.

    Args:
        process: whose times they are.
        n: steps, at least 1.
    """
    lams = torch.linspace(*_LAMBDAS, max(n - 1, 2), dtype=torch.float64)[: n - 1]
    ends = torch.tensor([process.start, process.terminal], dtype=torch.float64)
    return torch.cat([ends[:1], process.time_of_lambda(lams), ends[1:]])


def _same(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True, eq=False)
class Measurement:
    """y = A x + sd n.

    Attributes:
        operator: A.
        y: (1 or B, c, h, w).
        sd: standard deviation of the noise, 0 to inf.
        limit: y was clipped to [-limit, limit] after the noise.
    """

    operator: Operator
    y: Tensor
    sd: float
    limit: float = math.inf

    def condition(
        self,
        method: PosteriorMethod,
        spread: Callable[[float], float],
        variance: Callable[[float], float],
        latent_noise: Noise,
        measured_noise: Noise,
        decode: Callable[[Tensor], Tensor] = _same,
        encode: Callable[[Tensor], Tensor] = _same,
    ) -> Condition | None:
        """What a method makes of predictions; None where nothing was measured.

        A latent is decoded, the picture moved, and the latent takes the difference of both when they are encoded
        again: the autoencoder's own error cancels, and where nothing is moved nothing changes. A sample is the mean of
        a guess and a measurement that are noised as they are uncertain. Encoders are linear for little noise only, so
        the measurement's is encoded a tenth as strong, and what it changes is taken ten times.

        Args:
            method: sample or mean.
            spread: of the prediction (B, C, h, w): its variance, by time.
            variance: that of the picture that it shows, in the directions that latents have.
            latent_noise: draws (B, C, h, w).
            measured_noise: draws like the measurement.
            decode: latents -> pictures (B, 3, H, W); by default the denoiser works on pictures.
            encode: the reverse.
        """
        if math.isinf(self.sd):
            return None

        def condition(x0: Tensor, t: float) -> Tensor:
            r2 = variance(t)
            sampled = method.sampled and math.isfinite(r2)
            z = x0 + spread(t) ** 0.5 * latent_noise() if sampled else x0
            guess = decode(z)
            moved = self.moved(guess, r2)
            code = encode(moved)
            x0 = z + code - encode(guess)
            if sampled and self.sd > 0:
                uncertain = self.operator.prox(torch.zeros_like(moved), self.sd * measured_noise(), r2, self.sd**2)
                x0 = x0 + (encode(moved + _LITTLE * uncertain) - code) / _LITTLE
            return x0

        return condition

    def residual(self, x: Tensor) -> Tensor:
        """y - A x, what a picture (B, C, H, W) lacks of the measurement."""
        return self._unclipped(x.detach()) - self.operator(x)

    def moved(self, guess: Tensor, r2: float) -> Tensor:
        """A guess (B, C, H, W) of variance r2 brought together with the measurement: the mean of the posterior."""
        return self.operator.prox(guess, self._unclipped(guess), r2, self.sd**2)

    def _unclipped(self, x0: Tensor) -> Tensor:
        """y without the bias that clipping gave it, as far as x0 is right: noise on white can only darken it."""
        if math.isinf(self.limit) or self.sd == 0:
            return self.y
        expected = self.operator(x0).clamp(-self.limit, self.limit)
        return self.y + expected - clipped_mean(expected, self.sd, self.limit)


def clipped_mean(mu: Tensor, sd: float, limit: float) -> Tensor:
    """E[clip(mu + sd n, -limit, limit)] of standard normal n, of each element of mu."""
    low, high = (-limit - mu) / sd, (limit - mu) / sd
    below, above = (torch.special.ndtr(each) for each in (low, -high))
    density = (torch.exp(-(low**2) / 2) - torch.exp(-(high**2) / 2)) / math.sqrt(2 * math.pi)
    mean: Tensor = limit * (above - below) + mu * (1 - above - below) + sd * density
    return mean


@dataclass(frozen=True, eq=False)
class Posterior:
    """A denoiser whose picture agrees with a measurement, and whose noise is partly new; `ddim` steps along it.

    Attributes:
        denoiser: what it wraps.
        condition: moves x0 towards the measurement; None changes nothing, to the bit.
        method: how noise is put back.
        noise: draws (B, C, h, w).
    """

    denoiser: Denoiser
    condition: Condition | None
    method: PosteriorMethod
    noise: Noise

    @property
    def process(self) -> Process:
        """The process whose coordinates x is in."""
        return self.denoiser.process

    def __call__(self, x: Tensor, t: float) -> Prediction:
        """The prediction for x `(B, C, h, w)` at time t."""
        prediction, share = self.denoiser(x, t), self.method.renewed
        if self.condition is None:
            return prediction
        x0, eps = self.condition(prediction.x0, t), prediction.eps
        if self.method.implied and share < 1:
            alpha, sigma = (level.item() for level in self.process.levels(t))
            eps = (x - alpha * x0) / sigma
        if share > 0:
            eps = (1 - share) ** 0.5 * eps + share**0.5 * self.noise()
        return replace(prediction, x0=x0, eps=eps)
