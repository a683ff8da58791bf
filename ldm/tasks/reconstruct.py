"""Reconstruction: what a picture may have been before a damage that is known (posterior sampling)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from random import Random
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from ldm.denoiser import Denoiser
from ldm.families.denoising_error import USUAL
from ldm.families.kinds import TEXT_TO_IMAGE
from ldm.generation.draw import Walk
from ldm.generation.task import TaskSetup
from ldm.guidance.posterior import POSTERIOR_METHODS, Measurement, Posterior, posterior_grid
from ldm.guidance.posterior_gradients import dps, red_diff
from ldm.noise import NoiseSource
from ldm.operators.composition import Composition, parse_operator
from ldm.operators.kinds import Crop, Grey, Mask
from ldm.samplers import Sampler, ddim
from ldm.schedules import make_grid
from ldm.tasks.base import Canvas, PictureTask
from ldm.tasks.picture import Picture, image_of, mask_of
from ldm.tasks.reconstruct_settings import ReconstructSettings

if TYPE_CHECKING:
    from PIL.Image import Image

    from ldm.generation.opened_model import OpenedModel
    from ldm.generation.request import Request
    from ldm.generation.resolve import ResolvedRequest

STEPS = 25
_AGAIN = 20
_WHITE = 4.0
"""The deviation that is white is one of 255 / 4."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Reconstruct(ReconstructSettings, PictureTask):
    """Pictures that a known damage may have made of what is put in, sampled from a model's own distribution.

    Attributes:
        mask: white where pixels are missing; of the picture's size.
    """

    name: ClassVar[str] = "reconstruct"
    kinds: ClassVar[tuple[str, ...]] = (TEXT_TO_IMAGE,)

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_operator(self.operator)

    @cached_property
    def seen(self) -> Composition:
        """The operator, from a picture of the finished size to what was put in."""
        operator = parse_operator(self.operator)
        if self.mask is None:
            return operator
        known, (height, width) = mask_of(self.mask) < 0.5, self.picture.size
        if tuple(known.shape) != (height, width):
            raise ValueError(
                f"the mask has {known.shape[1]} x {known.shape[0]} pixels and the picture {width} x {height}; "
                "what is missing must be known exactly, so use a mask of that size"
            )
        if not bool(known.any()):
            raise ValueError("the mask is white all over, so nothing of the picture is known; use ldm generate")
        return Composition(operator, Mask(known))

    @property
    def is_grey(self) -> bool:
        """Whether colours were lost."""
        return any(isinstance(part, Grey) for part in self.seen.parts)

    def fit(self, model: "OpenedModel", request: "Request") -> "Request":
        """See `Task.fit`; the model's full weights predict, by default as they were trained, without guidance."""
        if request.width is not None or request.height is not None:
            canvas = self.canvas(model, request)
            size = request.height or canvas.size[0], request.width or canvas.size[1]
            if size not in (canvas.size, canvas.denoised):  # which recipes have
                raise ValueError("the size follows from the picture and the operator; leave out width and height")
        for name in ("sampler", "schedule"):
            if getattr(request, name) not in (None, getattr(model.parts.defaults, name)):
                raise ValueError(f"{name}={getattr(request, name)!r} is without effect: the method steps by itself")
        return super().fit(
            model,
            replace(
                request,
                upscale=False,
                fast=bool(request.fast),
                num_inference_steps=request.num_inference_steps or STEPS,
                guidance_scale=1.0 if request.guidance_scale is None else request.guidance_scale,
            ),
        )

    def canvas(self, model: "OpenedModel", request: "Request") -> Canvas:
        """The picture in its size before the damage."""
        height, width = (edge * self.seen.factor for edge in self.picture.size)
        return Canvas.of(model, replace(request, upscale=False), self.picture.resized(height, width))

    def set_up(self, model: "OpenedModel", resolved: "ResolvedRequest") -> TaskSetup:
        """See `Task.set_up`."""
        canvas = self.canvas(model, resolved.recipe)
        reconstruction = _Reconstruction(self, canvas, model, resolved)
        setup = TaskSetup(size=canvas.size, finish=reconstruction.finish)
        steps = len(resolved.grid) - 1
        if self.method not in POSTERIOR_METHODS:
            grid = make_grid("trailing", resolved.process, steps)
            return replace(setup, grid=grid, sampler=reconstruction.by_gradients(), gradients=True)
        eta = POSTERIOR_METHODS[self.method].eta
        grid = posterior_grid(resolved.process, steps)
        return replace(setup, wrap=reconstruction.wrap, grid=grid, sampler=partial(ddim, eta=eta))


@dataclass(frozen=True, eq=False)
class _Reconstruction:
    """One drawing of the task."""

    task: Reconstruct
    canvas: Canvas
    model: "OpenedModel"
    resolved: "ResolvedRequest"

    @cached_property
    def measurement(self) -> Measurement:
        """What was put in, as a measurement of pictures (B, 3, H, W) of the denoised size, on [-1, 1]."""
        operator = Composition(Crop(self.canvas.size, self.canvas.denoised), self.task.seen)
        y = self.task.picture.rgb[None].to(self.model.device) * 2 - 1
        if self.task.is_grey:
            y = Grey()(y)
        return Measurement(operator, y, self.task.noise_level / 127.5, limit=1.0)

    def wrap(self, denoise: Denoiser, walk: Walk) -> Denoiser:
        """The denoiser whose pictures agree with the measurement.

        What it does not know lies in as many directions as a latent has numbers, fewer than a picture has: it is
        sampled there, for no autoencoder has met the noise of pixels, and in each of them it is so many times larger.
        """
        method = POSTERIOR_METHODS[self.task.method]
        errors, process = self.model.parts.errors or USUAL, self.resolved.process
        latent, measured = tuple(walk.noise.shape[1:]), tuple(self.measurement.y.shape[1:])
        directions = 3 * math.prod(self.canvas.denoised) / math.prod(latent)

        def levels(t: float) -> tuple[float, float]:
            alpha, sigma = process.levels(t)
            return alpha.item(), sigma.item()

        condition = self.measurement.condition(
            method,
            spread=lambda t: errors.of_latents(*levels(t)),
            variance=lambda t: method.r2(directions * errors.of_denoiser(*levels(t)), *levels(t)),
            latent_noise=self._noise(walk, "latent", latent),
            measured_noise=self._noise(walk, "measured", measured),
            decode=self._decode,
            encode=self._encode,
        )
        return Posterior(denoise, condition, method, self._noise(walk, "anew", latent))

    def by_gradients(self) -> Sampler:
        """The sampler of DPS, or of RED-diff, which begins with the smallest picture that has the measurement."""

        def residual(x0: Tensor) -> Tensor:
            return self.measurement.residual(self._decode(x0))

        if self.task.method == "dps":
            return partial(dps, residual=residual)
        start = self._encode(self.measurement.operator.pseudo_inverse(self.measurement.y).clamp(-1, 1))
        return partial(red_diff, residual=residual, start=start)

    def _decode(self, z: Tensor) -> Tensor:
        return self.model.decode(z, upscale=False) * 2 - 1

    def _encode(self, x: Tensor) -> Tensor:
        return self.model.encode(x / 2 + 0.5)

    def _noise(self, walk: Walk, what: str, shape: tuple[int, ...]) -> NoiseSource:
        """Noise of its own for each picture, whichever others it is generated with."""
        if self.resolved.generators is not None:
            return NoiseSource.from_generators([self.resolved.generators[row] for row in walk.rows], shape)
        seeds = [Random(f"{what} {self.resolved.seeds[row]}").getrandbits(32) for row in walk.rows]
        return NoiseSource(seeds, shape, walk.noise.device)

    def finish(self, latents: Tensor) -> "list[Image]":
        """The pictures after a last step in pixels, which alone is free of the autoencoder."""
        errors, made = self.model.parts.errors or USUAL, []
        for batch in latents.split(self.resolved.batch_size):
            x = self._decode(batch)
            x = self.measurement.moved(x, errors.autoencoder)
            for _ in range(_AGAIN if self.measurement.sd == 0 else 0):  # what is clipped is measured again
                x = self.measurement.moved(x.clamp(-1, 1), errors.autoencoder)
            made += [(rgb.clamp(-1, 1) / 2 + 0.5).cpu() for rgb in Crop(self.canvas.size, self.canvas.denoised)(x)]
        if self.task.is_grey:
            return [image_of((rgb * 255).round().byte().permute(1, 2, 0).numpy()) for rgb in made]
        return [image_of(self.canvas.picture.with_rgb(rgb)) for rgb in made]


def mean_and_deviation(images: "Sequence[Image]") -> "tuple[Image, Image]":
    """The mean of samples, which is nearest to the truth by squared error, and how far they are apart, pixel by pixel.

    Args:
        images: of one size and mode.

    Returns:
        The mean, in their mode; and the root mean square over channels of the deviation, as grey: 0 is black, 64 of
        255 and more is white.
    """
    pixels = np.stack([np.asarray(image) for image in images])
    most = np.iinfo(pixels.dtype).max
    mean = Picture.from_pixels(np.atleast_3d(pixels.mean(0).round().astype(pixels.dtype))).image()
    spread = pixels.std(0) / most
    spread = np.sqrt((spread**2).mean(-1)) if spread.ndim == 3 else spread
    return mean, image_of((spread * 255 * _WHITE).clip(0, 255).round().astype(np.uint8)[..., None])
