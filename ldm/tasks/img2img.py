"""Image to image: a picture is noised up to a level, and the walk goes on from there (Meng et al. 2022, "SDEdit")."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor
from torch.nn import functional as F

from ldm.families.kinds import DEPTH, TEXT_TO_IMAGE
from ldm.generation.conditions import ExtraConditioning
from ldm.generation.draw import Start
from ldm.generation.task import TaskSetup
from ldm.tasks.base import Canvas, PictureTask, kept, multiple_of, noised, wanted_size, warn_of_a_rest
from ldm.tasks.picture import image_of
from ldm.tasks.settings import Img2ImgSettings
from ldm.tasks.strength import walk_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from ldm.generation.opened_model import OpenedModel
    from ldm.generation.request import Request
    from ldm.generation.resolve import ResolvedRequest


@dataclass(frozen=True, eq=False, kw_only=True)
class Img2Img(Img2ImgSettings, PictureTask):
    """A picture changed as a whole.

    Attributes:
        depth: of a depth model: the map, white is near.
    """

    name: ClassVar[str] = "img2img"
    kinds: ClassVar[tuple[str, ...]] = (TEXT_TO_IMAGE, DEPTH)

    def fit(self, model: "OpenedModel", request: "Request") -> "Request":
        """See `Task.fit`."""
        fitted = super().fit(model, request)
        if (model.parts.kind == DEPTH) != (self.depth is not None):
            needed = "this model is for depth and needs the map of the picture: --depth MAP, in Python depth=..."
            raise ValueError(needed if self.depth is None else "this model takes no depth map; leave it out")
        return fitted

    def canvas(self, model: "OpenedModel", request: "Request") -> Canvas:
        """The whole picture in the request's size."""
        size = wanted_size(self.picture, request, multiple_of(model, request))
        return Canvas.of(model, request, self.picture.resized(*size))

    def set_up(self, model: "OpenedModel", resolved: "ResolvedRequest") -> TaskSetup:
        """See `Task.set_up`."""
        canvas = self.canvas(model, resolved.recipe)
        if self.strength > 0:
            walk, begun = walk_of(resolved, self.strength, self.steps_scale)
        if self.strength == 0 or begun == len(resolved.grid) - 1:
            return kept(resolved, canvas.picture, self._conditions(canvas))
        if self.strength == 1:
            warn_of_a_rest(resolved)
        z = canvas.encode(model, canvas.framed(canvas.picture.rgb))

        def finish(latents: Tensor) -> "list[Image]":
            decoded = canvas.decode(model, resolved, latents)
            return [image_of(canvas.picture.with_rgb(rgb)) for rgb in decoded]

        return TaskSetup(
            start=Start(lambda pictures: noised(z, pictures.noise, resolved, walk.times[begun]), begun),
            conditions=self._conditions(canvas),
            grid=walk.times,
            size=canvas.size,
            finish=finish,
        )

    def _conditions(self, canvas: Canvas) -> ExtraConditioning | None:
        """What the network sees beside the latent: of a depth model, the map in [-1, 1] as diffusers makes it."""
        if self.depth is None:
            return None
        depth = self.depth.resized(*canvas.picture.size).rgb.mean(0, keepdim=True)
        cells = [edge // canvas.factor for edge in canvas.denoised]
        small = F.interpolate(canvas.framed(depth)[None], cells, mode="bicubic", align_corners=False)
        least, most = small.min(), small.max()
        return ExtraConditioning(concat=2 * (small - least) / (most - least).clamp(min=1e-6) - 1)
