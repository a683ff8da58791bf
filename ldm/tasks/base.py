"""What all tasks with a picture share: settings for recipes, sizes that the model takes, encoding and pasting back."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from ldm.families.kinds import refusal
from ldm.generation.conditions import ExtraConditioning
from ldm.generation.draw import Start
from ldm.generation.setting import check_setting
from ldm.generation.task import TaskSetup
from ldm.naming import nearest
from ldm.tasks.composing import frame, framed, unframe
from ldm.tasks.picture import Picture, resize

if TYPE_CHECKING:
    from ldm.generation.opened_model import OpenedModel
    from ldm.generation.request import Request
    from ldm.generation.resolve import ResolvedRequest

log = logging.getLogger("ldm.tasks")


@dataclass(frozen=True, eq=False, kw_only=True)
class PictureTask(ABC):
    """A task of one picture: a record of its pictures and its settings. What has a `Setting` is an option of commands.

    Attributes:
        picture: that is put in.
    """

    name: ClassVar[str]
    """Of the task in recipes."""
    kinds: ClassVar[tuple[str, ...]]
    """The kinds of models that can do it."""

    picture: Picture

    def __post_init__(self) -> None:
        for each in fields(self):
            if "setting" in each.metadata:
                check_setting(each, getattr(self, each.name))

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Task.settings`; a picture is its path and its sha256."""
        content: dict[str, Any] = {"name": self.name}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Picture):
                content |= {each.name: value.path, f"{each.name}_sha256": value.sha256}
            elif value is not None:
                content[each.name] = value
        return content

    @property
    def repeatable(self) -> bool:
        """Whether all its pictures are files."""
        pictures = [each for each in vars(self).values() if isinstance(each, Picture)]
        return all(picture.path for picture in pictures)

    @classmethod
    def from_settings(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `settings`, without the name.

        Raises:
            ValueError: an unknown or missing setting.
            OSError: a picture that is not there, or is another one by now.
        """
        known = {each.name for each in fields(cls)}
        values: dict[str, Any] = {}
        for name, value in content.items():
            if name in known:
                named = content.get(f"{name}_sha256")
                values[name] = value if named is None else _same_picture(str(value), str(named))
            elif name.removesuffix("_sha256") not in known:
                raise ValueError(f"task {cls.name} has no setting {name!r}; {nearest(name, known)}")
        if "picture" not in values:
            raise ValueError(f"task {cls.name} names no picture")
        return cls(**values)

    def fit(self, model: "OpenedModel", request: "Request") -> "Request":
        """The request with the size that is denoised; see `Task.fit`."""
        if model.parts.kind not in self.kinds:
            raise ValueError(refusal(model.parts.kind))
        height, width = self.canvas(model, request).denoised
        return replace(request, height=height, width=width)

    @abstractmethod
    def canvas(self, model: "OpenedModel", request: "Request") -> "Canvas":
        """The part of the picture that the model works on, before `fit` and after it."""

    @abstractmethod
    def set_up(self, model: "OpenedModel", resolved: "ResolvedRequest") -> TaskSetup:
        """See `Task.set_up`."""


def _same_picture(path: str, sha256: str) -> Picture:
    picture = Picture.of(path)
    if picture.sha256 != sha256:
        raise OSError(
            f"{path} is not the picture of this recipe any more: its sha256 begins with {picture.sha256[:12]}, "
            f"not {sha256[:12]}; put that file back"
        )
    return picture


def _enlarged(model: "OpenedModel", request: "Request") -> int:
    upscaler = model.parts.upscaler
    return upscaler.config.factor if request.upscale and upscaler is not None else 1


def multiple_of(model: "OpenedModel", request: "Request") -> int:
    """Of pixels that a model can finish."""
    return max(8, model.parts.latent_format.factor) * _enlarged(model, request)


def own_size(model: "OpenedModel", request: "Request") -> tuple[int, int]:
    """Height and width of the model's own pictures, finished."""
    enlarged, own = _enlarged(model, request), model.parts.defaults
    return own.height * enlarged, own.width * enlarged


def in_own_tiles(model: "OpenedModel", request: "Request") -> "Request":
    """The request with tiles of the model's own size, unless it has some."""
    return request if request.tile_size else replace(request, tile_size=min(own_size(model, request)))


def wanted_size(picture: Picture, request: "Request", multiple: int) -> tuple[int, int]:
    """Height and width of the finished picture: the request's, or the picture's own; one edge alone keeps its shape.

    A size that is the picture's own up to framing is its own: that is what the request has after `fit`.
    """
    height, width = picture.size
    if request.height is None and request.width is None:
        return height, width
    if request.height is None or request.width is None:
        scale = (request.height or 0) / height or (request.width or 0) / width
        rounded = [max(1, round(edge * scale / multiple)) * multiple for edge in (height, width)]
        return request.height or rounded[0], request.width or rounded[1]
    edges = ("height", request.height, height), ("width", request.width, width)
    if all(framed(value, multiple) == framed(own, multiple) for _, value, own in edges):
        return height, width
    for name, value, own in edges:
        if value % multiple and value != own:
            raise ValueError(
                f"{name}={value} is neither the picture's own {own} nor a multiple of {multiple}; "
                f"use {framed(value, multiple)}"
            )
    return request.height, request.width


@dataclass(frozen=True, eq=False)
class Canvas:
    """A part of a picture in the size in which a model works on it.

    Attributes:
        picture: the whole.
        box: left, top, right, bottom of the part.
        size: height and width that the part is scaled to.
        factor: pixels of the finished picture per cell of the latent.
        enlarged: how often the model's upscaler enlarges what is decoded.
        multiple: of pixels that the model can finish.
    """

    picture: Picture
    box: tuple[int, int, int, int]
    size: tuple[int, int]
    factor: int
    enlarged: int
    multiple: int

    @classmethod
    def of(
        cls,
        model: "OpenedModel",
        request: "Request",
        picture: Picture,
        box: tuple[int, int, int, int] | None = None,
        size: tuple[int, int] | None = None,
    ) -> "Canvas":
        """A part of a picture (all of it by default), scaled to a size (its own by default)."""
        enlarged, factor = _enlarged(model, request), model.parts.latent_format.factor
        box = (0, 0, picture.size[1], picture.size[0]) if box is None else box
        own = (box[3] - box[1], box[2] - box[0])
        return cls(picture, box, size or own, factor * enlarged, enlarged, multiple_of(model, request))

    @property
    def denoised(self) -> tuple[int, int]:
        """Height and width of what the model finishes, whole multiples."""
        return framed(self.size[0], self.multiple), framed(self.size[1], self.multiple)

    def framed(self, values: Tensor) -> Tensor:
        """Numbers (C, H, W) of the whole picture -> those of the part (C, height, width), as it is finished."""
        left, top, right, bottom = self.box
        return frame(resize(values[:, top:bottom, left:right], *self.size), self.multiple)

    def encode(self, model: "OpenedModel", rgb: Tensor) -> Tensor:
        """Framed colours (3, height, width) in [0, 1] -> latents (1, C, h, w)."""
        small = F.avg_pool2d(rgb[None], self.enlarged) if self.enlarged > 1 else rgb[None]
        return model.encode(small.clamp(0, 1))

    def decode(self, model: "OpenedModel", resolved: "ResolvedRequest", latents: Tensor) -> list[Tensor]:
        """Latents (B, C, h, w) -> the colours (3, H, W) of the whole picture with the part in its place, B of them."""
        left, top, right, bottom = self.box
        finished = []
        for batch in latents.split(resolved.batch_size):
            for rgb in model.decode(batch, resolved.recipe.upscale).cpu():
                part = resize(unframe(rgb, self.size), bottom - top, right - left).clamp(0, 1)
                whole = self.picture.rgb.clone()
                whole[:, top:bottom, left:right] = part
                finished.append(whole)
        return finished


def noised(z: Tensor, noise: Tensor, resolved: "ResolvedRequest", t: Tensor) -> Tensor:
    """Latents z (1, C, h, w) with the noise (B, C, h, w) of a time."""
    return resolved.process.add_noise(z.to(noise.device).expand_as(noise), noise, t)


def kept(resolved: "ResolvedRequest", picture: Picture, conditions: ExtraConditioning | None = None) -> TaskSetup:
    """What gives the picture back as it is, without running any network."""
    steps, shape = len(resolved.grid) - 1, (len(resolved.prompts), *resolved.latent_size)
    return TaskSetup(
        start=Start(torch.zeros(shape), steps),
        conditions=conditions,
        size=picture.size,
        finish=lambda latents: [picture.image() for _ in latents],
    )


def warn_of_a_rest(resolved: "ResolvedRequest") -> None:
    """Say that a model's process never reaches pure noise, where a picture was to be drawn wholly anew."""
    alpha, sigma = (level.item() for level in resolved.process.levels(resolved.grid[0]))
    if alpha > 0:
        share = alpha / (alpha**2 + sigma**2) ** 0.5
        log.warning("strength 1 begins at this model's own top level, where %.2g of the picture still shows", share)
