"""Inpainting with every model: what a mask leaves is held while the rest is drawn, and its bytes come back."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ldm.families.kinds import INPAINTING, TEXT_TO_IMAGE
from ldm.generation.conditions import ExtraConditioning
from ldm.generation.draw import Start, Walk, Wrap
from ldm.generation.task import TaskSetup
from ldm.guidance.toward import Toward
from ldm.samplers import Sampler
from ldm.tasks.base import Canvas, PictureTask, kept, log, multiple_of, noised, wanted_size
from ldm.tasks.composing import compose, cover, feathered, framed, heal
from ldm.tasks.picture import Picture, image_of, mask_of
from ldm.tasks.settings import InpaintSettings
from ldm.tasks.strength import PartOfGrid, walk_of
from ldm.tasks.walks import resampled

if TYPE_CHECKING:
    from PIL.Image import Image

    from ldm.generation.opened_model import OpenedModel
    from ldm.generation.request import Request
    from ldm.generation.resolve import ResolvedRequest

ETA = 0.85
"""Of `ddim`, which fills holes where no other sampler is named: DDNM's, with which the fill is that of the data."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Inpaint(InpaintSettings, PictureTask):
    """A part of a picture drawn anew.

    Models made for it see the mask and what it leaves; with any other what is left is put into every prediction.

    Attributes:
        mask: white where to draw; of any size.
    """

    name: ClassVar[str] = "inpaint"
    kinds: ClassVar[tuple[str, ...]] = (TEXT_TO_IMAGE, INPAINTING)

    def __post_init__(self) -> None:
        if self.mask is None:
            raise ValueError("there is no mask; give --mask MASK.png, in Python mask_image=..., white where to draw")
        super().__post_init__()

    def fit(self, model: "OpenedModel", request: "Request") -> "Request":
        """See `Task.fit`; where something is held and no sampler is named, one is taken that fills it rightly."""
        fitted = super().fit(model, request)
        holds = model.parts.kind != INPAINTING and bool(self.change.min() < self.change.max())
        if not holds or fitted.sampler is not None or fitted.sampler_options:
            return fitted
        return replace(fitted, sampler="ddim", sampler_options={"eta": ETA})

    @cached_property
    def change(self) -> Tensor:
        """How much is changed where, (H, W) in [0, 1], in the picture's size."""
        change, size = mask_of(self.mask), self.picture.size
        if tuple(change.shape) != size:
            height, width = change.shape
            log.warning("the mask has %d x %d pixels; it is scaled to %d x %d", width, height, size[1], size[0])
            change = F.interpolate(change[None, None], size, mode="bilinear", antialias=True)[0, 0]
        change = (change * 255).round() / 255
        if not bool((change > 0).any()):
            log.warning("the mask is black all over, so the picture comes back as it is")
        return change

    def canvas(self, model: "OpenedModel", request: "Request") -> Canvas:
        """The whole picture, or the mask's surroundings in the model's size or the request's."""
        if self.crop is None or not bool((self.change > 0).any()):
            size = wanted_size(self.picture, request, multiple_of(model, request))
            return Canvas.of(model, request, self.picture.resized(*size))
        own, multiple = model.parts.defaults, multiple_of(model, request)
        enlarged = Canvas.of(model, request, self.picture).enlarged
        size = request.height or own.height * enlarged, request.width or own.width * enlarged
        size = framed(size[0], multiple), framed(size[1], multiple)
        return Canvas.of(model, request, self.picture, _surroundings(self.change, self.crop, size), size)

    def set_up(self, model: "OpenedModel", resolved: "ResolvedRequest") -> TaskSetup:
        """See `Task.set_up`."""
        canvas = self.canvas(model, resolved.recipe)
        change = _scaled(self.change, canvas.picture.size)
        top = min(self.strength, change.max().item()) if self.soft else self.strength
        conditions = self._conditions(model, canvas, change)
        begun = -1
        if top > 0 and bool((change > 0).any()):
            walk, begun = walk_of(resolved, top, self.steps_scale)
        if begun in (-1, len(resolved.grid) - 1):
            return kept(resolved, canvas.picture, conditions)
        z = canvas.encode(model, canvas.framed(canvas.picture.rgb))
        cells = cover(canvas.framed(change[None])[0].clamp(0, 1), canvas.factor).to(model.device)
        held = _held(cells, walk, self.soft)
        # a model made for inpainting knows what is left by itself, but not by how much a grey part may change
        holds = bool((cells < cells.max()).any()) and (self.soft or model.parts.kind != INPAINTING)

        def start(pictures: Walk) -> Tensor:
            t, noise = walk.times[begun], pictures.noise
            known, anew = noised(z, noise, resolved, t), resolved.process.initial(noise, t)
            return known if top < 1 else torch.where(held(t.item()), known, anew) if holds else anew

        def finish(latents: Tensor) -> "list[Image]":
            decoded = canvas.decode(model, resolved, latents)
            return [self._composed(canvas.picture, rgb, change) for rgb in decoded]

        return TaskSetup(
            start=Start(start, begun),
            wrap=_hold(z, held) if holds else None,
            conditions=conditions,
            grid=walk.times,
            sampler=resampled(resolved.sampling.make(), self.resample, self.resample_jump)
            if self.resample > 1
            else None,
            size=canvas.size if self.crop is None else None,
            finish=finish,
        )

    def _resampled(self, resolved: "ResolvedRequest") -> Sampler:
        return resampled(resolved.sampling.make(), self.resample, self.resample_jump)

    def _composed(self, picture: Picture, rgb: Tensor, change: Tensor) -> "Image":
        """What was drawn, in the picture, with the picture's own bytes where nothing was to change."""
        shows = feathered((change > 0).float() if self.soft else change, self.feather)
        filled = picture.with_rgb(heal(picture.rgb, rgb, change).clamp(0, 1))
        return image_of(compose(picture.pixels, filled, shows))

    def _conditions(self, model: "OpenedModel", canvas: Canvas, change: Tensor) -> ExtraConditioning | None:
        """What a model made for inpainting sees: the mask, and the latents of the picture with grey under it."""
        if model.parts.kind != INPAINTING:
            return None
        hole = canvas.framed((change > 0).float()[None]).clamp(0, 1)
        left = torch.where(hole > 0, 0.5, canvas.framed(canvas.picture.rgb))
        mask = (cover(hole[0], canvas.factor, reach=0) > 0).float().to(model.device)
        return ExtraConditioning(concat=torch.cat([mask[None, None], canvas.encode(model, left)], dim=1))


def _scaled(change: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(change.shape) == size:
        return change
    return F.interpolate(change[None, None], size, mode="bilinear", antialias=True)[0, 0]


def _held(cells: Tensor, walk: PartOfGrid, soft: bool) -> Callable[[float], Tensor]:
    """Time -> which cells (h, w) are held then.

    A grey cell is free once no more of the schedule is left than it may change, equality included (Levin and Fried
    2023, "Differential Diffusion"); without `soft` every cell that the mask touches is free from the beginning.
    """
    if not soft:
        return lambda t: cells == 0
    return lambda t: walk.left_at(t) > cells


def _hold(z: Tensor, held: Callable[[float], Tensor]) -> Wrap:
    """Put the picture's latents z into every prediction where they are held.

    The predicted noise stays, so the held part follows the walk's own noise. On Gaussian data the rest is then drawn
    from the right distribution; blending x with noised latents, or letting eps follow, makes it too wide and biased.
    """
    return lambda denoise, pictures: Toward(denoise, z, lambda t: held(t).float(), eps_follows=False)


def _surroundings(change: Tensor, padding: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box of what changes with some padding, made as long and wide as `size` is where the picture has room."""
    edges = []
    for axis, length in ((0, change.shape[0]), (1, change.shape[1])):
        places = (change > 0).any(1 - axis).nonzero()
        edges.append((max(int(places[0]) - padding, 0), min(int(places[-1]) + 1 + padding, length)))
    (top, bottom), (left, right) = edges
    scale = max((bottom - top) / size[0], (right - left) / size[1])
    top, bottom = _widened(top, bottom, round(size[0] * scale), change.shape[0])
    left, right = _widened(left, right, round(size[1] * scale), change.shape[1])
    return left, top, right, bottom


def _widened(first: int, last: int, length: int, most: int) -> tuple[int, int]:
    """A stretch made so long around its middle, moved into 0 to `most`."""
    length = min(max(length, last - first), most)
    first = min(max((first + last - length) // 2, 0), most - length)
    return first, first + length
