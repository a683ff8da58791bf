"""Guidance: wraps a denoiser into a denoiser that listens harder to its prompt."""

import torch
from torch import Tensor

from conditioning.bundle import Conditioning
from ldm.denoiser import ConditionalDenoiser, Prediction, target, to_x0_eps
from ldm.process import Process


def rescale_contrast(guided: Tensor, conditional: Tensor, amount: float) -> Tensor:
    """Pull the standard deviation of a guided output back to the conditional one's (Lin et al. 2023, eq. 14 to 16).

    Args:
        guided, conditional: network outputs `(B, C, h, w)`; the deviation is taken over C, h, w of each sample.
        amount: 0 (leave as it is) to 1 (all the way), the paper's phi.
    """
    axes = tuple(range(1, guided.ndim))
    ratio = conditional.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True).clamp(min=1e-12)
    return guided * (amount * ratio + (1 - amount))


class ClassifierFreeGuidance:
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
        denoiser: ConditionalDenoiser,
        negative: Conditioning,
        scale: float,
        rescale: float = 0.0,
        interval: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if not 0 <= rescale <= 1:
            raise ValueError(f"guidance_rescale={rescale} must be between 0 and 1")
        if not 0 <= interval[0] <= interval[1] <= 1:
            raise ValueError(f"guidance interval={interval} must satisfy 0 <= first <= second <= 1")
        if not torch.isfinite(torch.tensor(float(scale))):
            raise ValueError(f"guidance_scale={scale} must be a finite number")
        if denoiser.conditioning is None:
            raise ValueError("guidance needs a denoiser with a conditioning; this one has none")
        batch = denoiser.conditioning.batch_size
        if negative.batch_size == 1:
            negative = negative.repeat(batch)
        if negative.batch_size != batch:
            raise ValueError(f"negative has batch size {negative.batch_size}, the prompt {batch}; use {batch} or 1")
        self.denoiser, self.scale, self.rescale, self.interval = denoiser, float(scale), rescale, interval
        self._both = Conditioning.cat([negative, denoiser.conditioning])

    @property
    def process(self) -> Process:
        """The wrapped denoiser's process."""
        return self.denoiser.process

    def __call__(self, x: Tensor, t: float) -> Prediction:
        """The guided prediction for x `(B, C, h, w)` at time t, with its parts."""
        if self.scale == 1 or not self.interval[0] <= self.process.progress(t).item() <= self.interval[1]:
            only = self.denoiser(x, t)
            return Prediction(only.x0, only.eps, conditional=only)
        both = self.denoiser(torch.cat([x, x]), t, self._both)
        (x0_without, x0_with), (eps_without, eps_with) = both.x0.chunk(2), both.eps.chunk(2)
        x0 = torch.lerp(x0_without, x0_with, self.scale)
        eps = torch.lerp(eps_without, eps_with, self.scale)
        if self.rescale > 0:
            kind = self.denoiser.prediction_type
            alpha, sigma = (level.item() for level in self.process.levels(t))
            guided, plain = (target(*parts, alpha, sigma, kind) for parts in ((x0, eps), (x0_with, eps_with)))
            x0, eps = to_x0_eps(rescale_contrast(guided, plain, self.rescale), x.float(), alpha, sigma, kind)
        return Prediction(x0, eps, Prediction(x0_with, eps_with), Prediction(x0_without, eps_without))
