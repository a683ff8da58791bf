"""Drawing a prediction towards latents that are given."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ldm.denoiser import Denoiser, Prediction
from ldm.guidance.chain import eps_following
from ldm.process import Process


@dataclass(frozen=True, eq=False)
class Toward:
    """A denoiser that sees the picture nearer to a given one: x0' = x0 + w(t) (z - x0).

    With a weight that falls with the noise this is the guidance of restoration (Yu et al. 2024, "SUPIR"), with one that
    is 0 or 1 by cell it holds a known part.

    Attributes:
        denoiser: what it wraps.
        z: latents (B, C, h, w) or (1, C, h, w) to be drawn to.
        weight: time -> a number in [0, 1], or one per cell that spreads to (B, C, h, w); 0 changes no bit, 1 gives z.
        eps_follows: whether x stays what it is; else eps stays what was predicted, so that the noise of a part that is
            held agrees with the part that is not (Wang et al. 2023, "DDNM"), which samplers that step from x0 and eps
            need to fill a hole without bias.
    """

    denoiser: Denoiser
    z: Tensor
    weight: Callable[[float], Tensor | float]
    eps_follows: bool = True

    @property
    def process(self) -> Process:
        """The process whose coordinates x is in."""
        return self.denoiser.process

    def __call__(self, x: Tensor, t: float) -> Prediction:
        """The prediction for x `(B, C, h, w)` at time t, drawn towards z."""
        prediction, weight = self.denoiser(x, t), self.weight(t)
        if not isinstance(weight, Tensor):
            if weight == 0:
                return prediction
            weight = torch.tensor(weight)
        # lerp is exact at both ends
        x0 = torch.lerp(prediction.x0, self.z.expand_as(prediction.x0), weight.to(prediction.x0).expand_as(x))
        if not self.eps_follows:
            return replace(prediction, x0=x0)
        return replace(prediction, x0=x0, eps=eps_following(x0, prediction, self.process, t))
