"""Outpainting: a picture is extended on any sides at once; what is new is filled as a mask is."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ldm.families.kinds import INPAINTING, TEXT_TO_IMAGE
from ldm.generation.task import TaskSetup
from ldm.tasks.base import Canvas, PictureTask, in_own_tiles, multiple_of, own_size
from ldm.tasks.inpaint import Inpaint
from ldm.tasks.picture import Picture
from ldm.tasks.settings import OutpaintSettings

if TYPE_CHECKING:
    from ldm.generation.opened_model import OpenedModel
    from ldm.generation.request import Request
    from ldm.generation.resolve import ResolvedRequest

_IN_ONE_PIECE = 1.5
"""Times the model's own height or width: beyond, a network repeats what it knows, and is shown a window at a time."""
_SIDES = ("left", "top", "right", "bottom")


@dataclass(frozen=True, eq=False, kw_only=True)
class Outpaint(OutpaintSettings, PictureTask):
    """A larger picture around one: its bytes stay, in their place; what is new is opaque."""

    name: ClassVar[str] = "outpaint"
    kinds: ClassVar[tuple[str, ...]] = (TEXT_TO_IMAGE, INPAINTING)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any(getattr(self, side) for side in _SIDES):
            raise ValueError("there are 0 pixels to extend; say how many, with left, top, right or bottom")

    def fit(self, model: "OpenedModel", request: "Request") -> "Request":
        """See `Task.fit`; what is much larger than the model's own pictures is filled in windows that half overlap."""
        size = self._filling.picture.size
        if (request.height or size[0], request.width or size[1]) != size:
            raise ValueError(
                f"width={request.width}, height={request.height}: outpainting makes {size[1]} x {size[0]} pixels of "
                f"this picture; leave them out, and say left, top, right or bottom"
            )
        own = own_size(model, request)
        if request.tile_size is None and max(size[0] / own[0], size[1] / own[1]) > _IN_ONE_PIECE:
            multiple = multiple_of(model, request)
            half = min(own) // (2 * multiple) * multiple
            tiled = in_own_tiles(model, request)
            request = replace(tiled, tile_overlap=half if request.tile_overlap is None else request.tile_overlap)
        return self._filling.fit(model, request)

    def canvas(self, model: "OpenedModel", request: "Request") -> Canvas:
        """The whole extended picture."""
        return self._filling.canvas(model, request)

    def set_up(self, model: "OpenedModel", resolved: "ResolvedRequest") -> TaskSetup:
        """See `Task.set_up`."""
        return self._filling.set_up(model, resolved)

    @cached_property
    def _filling(self) -> Inpaint:
        """The inpainting of the new part of the extended picture."""
        sides = [getattr(self, side) for side in _SIDES]
        new = F.pad(torch.zeros(self.picture.size), (sides[0], sides[2], sides[1], sides[3]), value=255)
        return Inpaint(
            picture=replace(self.picture, pixels=extended(self.picture, *sides)),
            mask=Picture.from_pixels(new.numpy().astype(np.uint8)[..., None]),
            feather=self.feather,
            strength=self.strength,
            steps_scale=self.steps_scale,
            resample=self.resample,
            resample_jump=self.resample_jump,
        )


def extended(picture: Picture, left: int, top: int, right: int, bottom: int) -> NDArray[Any]:
    """The pixels of a picture with the colours of its edges around it, the smoother the further away, and opaque.

    The picture's own bytes are in their place.
    """
    height, width = picture.size
    most = np.iinfo(picture.pixels.dtype).max
    sides = (left, right, top, bottom)
    wide = F.pad(picture.rgb[None], sides, mode="replicate")
    distance = _distance(height, width, sides)
    smooth, radius = wide, 1
    while radius <= max(sides):
        window = F.pad(wide, (radius,) * 4, mode="replicate")
        kernel = 2 * radius + 1
        # one axis after the other: the cost grows with the radius, not with its square
        blurred = F.avg_pool2d(F.avg_pool2d(window, (kernel, 1), 1), (1, kernel), 1)
        smooth = torch.where(distance >= 2 * radius, blurred, smooth)
        radius *= 2
    pixels = np.pad(picture.pixels, ((top, bottom), (left, right), (0, 0)), mode="edge")
    if picture.alpha is not None:
        pixels[..., -1] = most
    colours = Picture.from_pixels(pixels).with_rgb(smooth[0])
    colours[top : top + height, left : left + width] = picture.pixels
    return colours


def _distance(height: int, width: int, sides: tuple[int, int, int, int]) -> Tensor:
    """How far each pixel of the extended picture is from the picture, (H, W); 0 within."""
    left, right, top, bottom = sides
    rows, columns = torch.arange(-top, height + bottom), torch.arange(-left, width + right)
    down = torch.maximum(-rows, rows - height + 1).clamp(min=0)
    across = torch.maximum(-columns, columns - width + 1).clamp(min=0)
    return torch.maximum(down[:, None], across)
