"""DemoFusion's skip residual: a walk that begins along the noisy versions of a known picture, and leaves it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.denoiser import Denoiser, Prediction
from ldm.process import Process


@dataclass(frozen=True, eq=False)
class SkipResidual:
    """Shows the denoiser c noise(z) + (1 - c) x with c = ((1 + cos(pi p)) / 2)^3 (Du et al. 2024, "DemoFusion", eq. 5).

    p is the share of the walk that is done: at its beginning x is the noisy picture, at its end nothing is mixed in.
    Picture and noise are predicted for the mixture, from which samplers go on.

    Attributes:
        denoiser: what it wraps.
        z: latents of the picture (B, C, h, w).
        noise: (B, C, h, w), the one with which the walk began.
        begun: the time at which it began.
    """

    denoiser: Denoiser
    z: Tensor
    noise: Tensor
    begun: float

    @property
    def process(self) -> Process:
        """The process whose coordinates x is in."""
        return self.denoiser.process

    def __call__(self, x: Tensor, t: float) -> Prediction:
        """The prediction for the mixture at time t."""
        first, now = (self.process.progress(each).item() for each in (self.begun, t))
        done = min(max((now - first) / (1 - first), 0), 1)
        share = ((1 + math.cos(math.pi * done)) / 2) ** 3
        return self.denoiser(torch.lerp(x, self.process.add_noise(self.z, self.noise, t), share), t)
