"""Editing by instruction, with InstructPix2Pix models (Brooks et al. 2023)."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ldm.families.kinds import EDITING
from ldm.generation.conditions import ExtraConditioning
from ldm.generation.task import TaskSetup
from ldm.tasks.base import Canvas, PictureTask, multiple_of, wanted_size
from ldm.tasks.picture import image_of
from ldm.tasks.settings import InstructSettings

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ldm.generation.opened_model import OpenedModel
    from ldm.generation.request import Request
    from ldm.generation.resolve import ResolvedRequest


@dataclass(frozen=True, eq=False, kw_only=True)
class Instruct(InstructSettings, PictureTask):
    """A picture drawn anew as an instruction says, by a model that sees it."""

    name: ClassVar[str] = "instruct"
    kinds: ClassVar[tuple[str, ...]] = (EDITING,)

    def fit(self, model: "OpenedModel", request: "Request") -> "Request":
        """See `Task.fit`; the second scale is one of guidance."""
        fitted = super().fit(model, request)
        options = {**fitted.guidance_options, "image_guidance_scale": self.image_guidance_scale}
        return replace(fitted, guidance_options=options)

    def canvas(self, model: "OpenedModel", request: "Request") -> Canvas:
        """The whole picture in the request's size."""
        size = wanted_size(self.picture, request, multiple_of(model, request))
        return Canvas.of(model, request, self.picture.resized(*size))

    def conditions(self, model: "OpenedModel", request: "Request") -> ExtraConditioning:
        """The picture's latents, without the latent format's scale."""
        canvas = self.canvas(model, request)
        z = canvas.encode(model, canvas.framed(canvas.picture.rgb))
        return ExtraConditioning(concat=model.parts.latent_format.to_autoencoder(z))

    def set_up(self, model: "OpenedModel", resolved: "ResolvedRequest") -> TaskSetup:
        """See `Task.set_up`."""
        canvas = self.canvas(model, resolved.recipe)

        def finish(latents: "Tensor") -> "list[Image]":
            return [image_of(canvas.picture.with_rgb(rgb)) for rgb in canvas.decode(model, resolved, latents)]

        return TaskSetup(conditions=self.conditions(model, resolved.recipe), size=canvas.size, finish=finish)
