"""A picture made larger: by a model for upscaling, or by any other one that generates detail in tiles."""

from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ldm.families.kinds import TEXT_TO_IMAGE, UPSCALING
from ldm.families.parts import LowResolution
from ldm.generation.conditions import ExtraConditioning
from ldm.generation.task import TaskSetup
from ldm.tasks.base import Canvas, PictureTask, in_own_tiles, kept, multiple_of
from ldm.tasks.composing import frame
from ldm.tasks.hires import refined
from ldm.tasks.larger import UpscaleSettings
from ldm.tasks.picture import image_of, resize

if TYPE_CHECKING:
    from PIL.Image import Image

    from ldm.generation.opened_model import OpenedModel
    from ldm.generation.request import Request
    from ldm.generation.resolve import ResolvedRequest


_BACK_PROJECTIONS, _SMOOTH = 40, 3
_LEVEL = 1 / 255


@dataclass(frozen=True, eq=False, kw_only=True)
class Upscale(UpscaleSettings, PictureTask):
    """A picture enlarged; by 1 it is what it is."""

    name: ClassVar[str] = "upscale"
    kinds: ClassVar[tuple[str, ...]] = (TEXT_TO_IMAGE, UPSCALING)

    def fit(self, model: "OpenedModel", request: "Request") -> "Request":
        """See `Task.fit`."""
        if request.width is not None or request.height is not None:
            canvas = self.canvas(model, request)
            size = request.height or canvas.size[0], request.width or canvas.size[1]
            if size not in (canvas.size, canvas.denoised):  # which recipes have
                raise ValueError("the size follows from the picture and by; leave out width and height")
        fitted = super().fit(model, request)
        upscales = model.parts.kind == UPSCALING
        factor = model.parts.latent_format.factor
        if upscales and self.by not in (None, 1, factor):
            raise ValueError(f"by={self.by} is not what this model does; use {factor}")
        without = ("strength", "residual", "steps_scale") if upscales else ("noise_level",)
        for name in without:
            if getattr(self, name) not in (None, False):
                kind = "a model for upscaling" if upscales else "a model that is not for upscaling"
                raise ValueError(f"{name}={getattr(self, name)} is without effect on {kind}; leave it out")
        return in_own_tiles(model, fitted)

    def canvas(self, model: "OpenedModel", request: "Request") -> Canvas:
        """The enlarged picture."""
        own = model.parts.latent_format.factor if model.parts.kind == UPSCALING else 2
        by, (height, width) = self.by or own, self.picture.size
        return Canvas.of(model, request, self.picture if by == 1 else self.picture.resized(height * by, width * by))

    def set_up(self, model: "OpenedModel", resolved: "ResolvedRequest") -> TaskSetup:
        """See `Task.set_up`."""
        canvas, strength = self.canvas(model, resolved.recipe), 0.4 if self.strength is None else self.strength

        def finish(latents: Tensor) -> "list[Image]":
            decoded = canvas.decode(model, resolved, latents)
            if self.consistent:
                decoded = [back_projected(rgb, self.picture.rgb) for rgb in decoded]
            return [image_of(canvas.picture.with_rgb(rgb)) for rgb in decoded]

        if model.parts.kind == UPSCALING:
            if self.by == 1:
                nothing = torch.zeros(1, 3, *resolved.latent_size[1:])
                return kept(resolved, canvas.picture, ExtraConditioning(concat=nothing, noise_level=0))
            return TaskSetup(conditions=self._conditions(model, resolved), size=canvas.size, finish=finish)
        if self.by == 1 or strength == 0:
            return kept(resolved, canvas.picture)
        z = canvas.encode(model, canvas.framed(canvas.picture.rgb))
        setup = refined(resolved, z, strength, self.steps_scale, self.residual)
        return replace(setup, size=canvas.size, finish=finish)

    def _conditions(self, model: "OpenedModel", resolved: "ResolvedRequest") -> ExtraConditioning:
        """The small picture in [-1, 1] with noise of the level, as diffusers' pipeline makes it."""
        low = model.parts.low_resolution or LowResolution()
        level = min(20, low.max_noise_level) if self.noise_level is None else self.noise_level
        if level > low.max_noise_level:
            raise ValueError(f"noise_level={level} is above what this model knows; use 0 to {low.max_noise_level}")
        pixels = multiple_of(model, resolved.recipe) // model.parts.latent_format.factor
        small = frame(self.picture.rgb, pixels) * 2 - 1
        generators = resolved.generators or [_other_noise(seed) for seed in resolved.seeds]
        noise = torch.cat([torch.randn(1, *small.shape, generator=each) for each in generators])
        concat = low.process.add_noise(small.expand_as(noise), noise, low.process.time_of_index(level))
        return ExtraConditioning(concat=concat, noise_level=level)


def back_projected(large: Tensor, small: Tensor) -> Tensor:
    """A large picture (3, H, W) whose small copy, by the mean of each block, is the one that is known.

    Args:
        large: in [0, 1].
        small: (3, H / by, W / by) in [0, 1].
    """
    (height, width), by = large.shape[1:], large.shape[1] // small.shape[1]
    for number in range(_BACK_PROJECTIONS):
        missing = small - F.avg_pool2d(large, by)
        if missing.abs().max() < _LEVEL / 4:
            break
        # What is added by blocks leaves edges, so it only finishes what the smooth one has not reached.
        blocks = missing.repeat_interleave(by, 1).repeat_interleave(by, 2)
        large = (large + (resize(missing, height, width) if number < _SMOOTH else blocks)).clamp(0, 1)
    return large


def _other_noise(seed: int) -> torch.Generator:
    """A generator for the small picture's noise: the seed's own begins with the noise of the latents."""
    return torch.Generator().manual_seed(Random(f"small picture {seed}").getrandbits(32))
