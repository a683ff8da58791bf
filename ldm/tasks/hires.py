"""Two passes: a picture of the size that a model knows, and then its detail at a larger size, in tiles."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from ldm.denoiser import Denoiser
from ldm.families.kinds import TEXT_TO_IMAGE, refusal
from ldm.generation.draw import Start, Walk, draw
from ldm.generation.setting import check_setting
from ldm.generation.task import TaskSetup
from ldm.guidance.residual import SkipResidual
from ldm.naming import look_up
from ldm.tasks.base import in_own_tiles, multiple_of, noised, own_size
from ldm.tasks.larger import HiresSettings
from ldm.tasks.strength import walk_of

if TYPE_CHECKING:
    from ldm.generation.opened_model import OpenedModel
    from ldm.generation.request import Request
    from ldm.generation.resolve import ResolvedRequest


@dataclass(frozen=True, eq=False, kw_only=True)
class Hires(HiresSettings):
    """Generates in two passes. Width and height of the request are those of the finished picture."""

    name: ClassVar[str] = "hires"
    repeatable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for each in fields(self):
            check_setting(each, getattr(self, each.name))

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Task.settings`."""
        return {"name": self.name, **asdict(self)}

    @classmethod
    def from_settings(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `settings`, without the name.

        Raises:
            ValueError: an unknown setting.
        """
        for name in content:
            look_up("setting of hires", name, {each.name: None for each in fields(cls)})
        return cls(**content)

    def fit(self, model: "OpenedModel", request: "Request") -> "Request":
        """See `Task.fit`."""
        if model.parts.kind != TEXT_TO_IMAGE:
            raise ValueError(refusal(model.parts.kind))
        sides = own_size(model, request)
        multiple = multiple_of(model, request)
        height, width = (max(1, round(side * self.scale / multiple)) * multiple for side in sides)
        sized = replace(request, height=request.height or height, width=request.width or width)
        return in_own_tiles(model, sized)

    def set_up(self, model: "OpenedModel", resolved: "ResolvedRequest") -> TaskSetup:
        """See `Task.set_up`."""
        first = self.first_pass(model, resolved)
        enlarged = [self._enlarged(model, z, resolved.latent_size[1:]) for z in first.split(resolved.batch_size)]
        return refined(resolved, torch.cat(enlarged), self.strength, self.steps_scale, self.residual)

    def _enlarged(self, model: "OpenedModel", z: Tensor, size: tuple[int, ...]) -> Tensor:
        """Latents (B, C, h, w) of another height and width, in cells."""
        if self.enlarge == "latent":
            return F.interpolate(z, size, mode="bicubic", antialias=True, align_corners=False)
        pixels = [cells * model.parts.latent_format.factor for cells in size]
        large = F.interpolate(
            model.decode(z, upscale=False), pixels, mode="bicubic", antialias=True, align_corners=False
        )
        return model.encode(large.clamp(0, 1))

    def first_pass(self, model: "OpenedModel", resolved: "ResolvedRequest") -> Tensor:
        """The denoised latents (B, C, h, w) of the small pictures: those of a plain drawing of that size."""
        multiple = max(1, 8 // model.parts.latent_format.factor)
        channels, *cells = resolved.latent_size
        height, width = (max(1, round(edge / self.scale / multiple)) * multiple for edge in cells)
        steps = draw(model, replace(resolved, latent_size=(channels, height, width)))
        while True:
            try:
                next(steps)
            except StopIteration as end:
                latents: Tensor = end.value
                return latents


def refined(resolved: "ResolvedRequest", z: Tensor, strength: float, steps_scale: bool, residual: bool) -> TaskSetup:
    """A walk from the noisy latents of enlarged pictures.

    Args:
        resolved: of the drawing, B pictures.
        z: latents (B, C, h, w), or (1, C, h, w) for all.
        strength: the share of the schedule that is walked; at 0 the latents stay as they are.
        steps_scale: take that share of the steps.
        residual: see `SkipResidual`.
    """
    z = z.expand(len(resolved.prompts), *resolved.latent_size)
    steps = len(resolved.grid) - 1
    if strength == 0:
        return TaskSetup(start=Start(z, steps))
    walk, begun = walk_of(resolved, strength, steps_scale)

    def wrap(denoiser: Denoiser, pictures: Walk) -> Denoiser:
        own = z[list(pictures.rows)].to(pictures.noise.device)
        return SkipResidual(denoiser, own, pictures.noise, walk.times[begun].item())

    def start(pictures: Walk) -> Tensor:
        return noised(z[list(pictures.rows)], pictures.noise, resolved, walk.times[begun])

    return TaskSetup(start=Start(start, begun), wrap=wrap if residual else None, grid=walk.times)
