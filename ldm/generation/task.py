"""The seam of tasks: what a drawing does with a picture that is put in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from ldm.generation.conditions import ExtraConditioning
from ldm.generation.draw import Start, Wrap
from ldm.samplers import Sampler

if TYPE_CHECKING:
    from PIL.Image import Image

    from ldm.generation.opened_model import OpenedModel
    from ldm.generation.request import Request
    from ldm.generation.resolve import ResolvedRequest


@dataclass(frozen=True, eq=False)
class TaskSetup:
    """What a task changes in a drawing; None is what it is without a task.

    Attributes:
        start: where the sampling starts.
        wrap: what is put around the denoiser.
        conditions: what the network is conditioned on besides texts.
        grid: the times `(n + 1,)`, as many as the resolved request has.
        sampler: in place of the request's, with all its options.
        size: height and width of the finished picture, where they are not what is denoised.
        finish: denoised latents (B, C, h, w) -> the finished pictures, in place of decoding.
        gradients: the sampler asks for some, so tensors are made such that it may.
    """

    start: Start | None = None
    wrap: Wrap | None = None
    conditions: ExtraConditioning | None = None
    grid: Tensor | None = None
    sampler: Sampler | None = None
    size: tuple[int, int] | None = None
    finish: "Callable[[Tensor], list[Image]] | None" = None
    gradients: bool = False


class Task(Protocol):
    """Something to do with a picture, with all its settings."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that decides the result, in types that JSON has, for recipes: `ldm.tasks.table.task_from`."""

    @property
    def repeatable(self) -> bool:
        """Whether `settings` says it all: a picture that is no file cannot be named."""

    def fit(self, model: "OpenedModel", request: "Request") -> "Request":
        """The request with what the task decides, such as the size of its picture.

        Args:
            model: that will run it.
            request: as it was made.

        Raises:
            ValueError: the model cannot do this, or a setting is not possible; names it and the mend.
        """

    def set_up(self, model: "OpenedModel", resolved: "ResolvedRequest") -> TaskSetup:
        """What changes in the drawing. Runs without gradients.

        Args:
            model: that runs it.
            resolved: what `fit` gave, resolved.
        """
