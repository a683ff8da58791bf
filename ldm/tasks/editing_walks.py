"""Walks that carry a picture over from one prompt to another, with two denoisers that see the same noise.

They are samplers, and need a `PromptPair` as denoiser. They hold for every process, for they step in alpha and sigma.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import exp, expm1

import torch
from torch import Tensor

from ldm.denoiser import Denoiser, Prediction
from ldm.process import Process
from ldm.samplers.step import Noise, NoiseLevel, Step, levels_of


@dataclass(frozen=True, eq=False)
class PromptPair:
    """Two denoisers of the same pictures.

    Attributes:
        target: under the prompt that is wanted.
        source: under the one that they show.
        watch: gets each step's difference of the predicted pictures `(B, C, h, w)`, in difference editing.
    """

    target: Denoiser
    source: Denoiser
    watch: Callable[[Tensor], None] = lambda change: None

    @property
    def process(self) -> Process:
        """The process of both."""
        return self.target.process

    def __call__(self, x: Tensor, t: float) -> Prediction:
        """The prediction under the prompt that is wanted."""
        return self.target(x, t)


def difference_edit(pair: PromptPair, z: Tensor, grid: Tensor, noise: Noise, average: int = 1) -> Iterator[Step]:
    """DDIM on the difference of two walks that share their noise (Kulikov et al. 2024, "FlowEdit", for any process).

    d' = (sigma' / sigma) d + (alpha' - alpha sigma' / sigma) (D_target(x + d) - D_source(x)), x being alpha z + sigma e
    with new e in every step. After a step the picture is z + d / alpha', which is what is yielded. Equal denoisers give
    d = 0 and so z, to the bit.

    Args:
        pair: the denoisers; two calls a step and a draw.
        z: latents of the picture `(B, C, h, w)`.
        grid: descending times `(n + 1,)`.
        noise: drawn from `average` times a step.
        average: draws whose differences are averaged; more is calmer.
    """
    levels = levels_of(pair.process, grid)
    d = torch.zeros_like(z)
    for index, (now, then) in enumerate(pairwise(levels)):
        change = torch.zeros_like(z)
        for _ in range(average):
            x = now.alpha * z + now.sigma * noise()
            prediction = pair.target(x + d, now.t)
            change = change + (prediction.x0 - pair.source(x, now.t).x0) / average
        pair.watch(change)
        kept = then.sigma / now.sigma
        d = kept * d + (then.alpha - now.alpha * kept) * change
        yield Step(index, len(levels) - 1, then.t, z + d / then.alpha, prediction)


def ddpm_edit(pair: PromptPair, z: Tensor, grid: Tensor, noise: Noise) -> Iterator[Step]:
    """DDPM steps with the very noise that leads to the picture (Huberman-Spiegelglas et al. 2024, section 3).

    The picture is noised to every level of the grid, each time with noise of its own; what the posterior's mean under
    the source prompt lacks from one of these to the next is added to the mean under the target prompt. Both walks are
    taken side by side, so nothing is stored and nothing is divided by. Equal denoisers give z but for rounding.

    Args:
        pair: the denoisers; two calls a step.
        z: latents of the picture `(B, C, h, w)`.
        grid: descending times `(n + 1,)`; where it begins decides how much may change.
        noise: drawn from once a step, and once before.
    """
    levels = levels_of(pair.process, grid)
    seen = x = levels[0].alpha * z + levels[0].sigma * noise()
    for index, (now, then) in enumerate(pairwise(levels)):
        last = index == len(levels) - 2  # some schedules end a little before alpha = 1
        reached = z if last else then.alpha * z + then.sigma * noise()
        prediction = pair.target(x, now.t)
        x = _mean(x, prediction, now, then) + reached - _mean(seen, pair.source(seen, now.t), now, then)
        seen = reached
        yield Step(index, len(levels) - 1, then.t, x, prediction)


def _mean(x: Tensor, prediction: Prediction, now: NoiseLevel, then: NoiseLevel) -> Tensor:
    """The mean of DDPM's posterior, as of `ldm.samplers.ddim_ddpm.ddpm`."""
    step = now.lam - then.lam
    return -then.alpha * expm1(2 * step) * prediction.x0 + then.sigma / now.sigma * exp(step) * x


def changed_cells(changes: Tensor, share: float) -> Tensor:
    """The fewest cells that hold a share of all squared change, smoothed over their neighbours.

    Args:
        changes: (B, C, h, w), summed over the steps of a walk.
        share: 0 to 1; 1 is every cell that changes at all.

    Returns:
        (B, h, w) of 0 and 1.
    """
    energy = changes.square().mean(1, keepdim=True)
    energy = torch.nn.functional.avg_pool2d(energy, 3, stride=1, padding=1, count_include_pad=False)
    ordered, order = energy.flatten(1).sort(dim=1, descending=True)
    before = (ordered.cumsum(1) - ordered) / ordered.sum(1, keepdim=True).clamp(min=1e-30)
    chosen = ((before < share) & (ordered > 0)).float()
    return torch.zeros_like(ordered).scatter(1, order, chosen).reshape(len(changes), *changes.shape[2:])
