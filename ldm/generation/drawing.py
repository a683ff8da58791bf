"""A drawing in progress: an iterator of steps that ends in a result."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from time import perf_counter

import torch
from torch import Tensor

from ldm.generation.draw import DrawStep
from ldm.generation.result import Result


class Drawing(Iterator[DrawStep]):
    """The steps of some pictures, and then `result`.

    Work is done only in `next` and in `result`, without gradients; between two steps nothing is held but memory, so a
    drawing may be left at any time. Threads must not share one.
    """

    def __init__(
        self,
        steps: Generator[DrawStep, Tensor | None, Tensor],
        finish: Callable[[Tensor, bool], Result],
        count: int,
        gradients: bool = False,
    ) -> None:
        """Wrap the steps of a drawing.

        Args:
            steps: as of `ldm.generation.draw.draw`.
            finish: turns denoised latents into pictures; the second argument is whether a recipe can repeat them.
            count: of pictures.
            gradients: whether the sampler asks for some; steps keep none either way.
        """
        self._steps, self._finish, self.count = steps, finish, count
        self._gradients = gradients
        self._changed: Tensor | None = None
        self._repeatable = True
        self._seconds = 0.0
        self._result: Result | None = None

    def __next__(self) -> DrawStep:
        started = perf_counter()
        try:
            with torch.no_grad() if self._gradients else torch.inference_mode():
                changed, self._changed = self._changed, None
                return self._steps.send(changed)
        except StopIteration as end:
            if end.value is not None:
                finished = self._finish(end.value, self._repeatable)
                self._result = replace(finished, seconds=self._seconds + perf_counter() - started)
            raise StopIteration from None
        finally:
            self._seconds += perf_counter() - started

    def go_on_from(self, latents: Tensor) -> None:
        """Put other latents in the place of the last step's `x`, from which the next step begins.

        A sampler that remembers earlier steps (`deis`, `dpmpp_2m`, `dpmpp_2m_sde`, `dpmpp_3m_sde`, `lms`, `plms`,
        `unipc`) begins there with an empty memory, which is its first order for a step. No recipe repeats the picture.

        Args:
            latents: (B, C, h, w) of the step's pictures, in the process's coordinates (those of diffusers' DDIM).

        Raises:
            ValueError: at the next step, for another shape, and for `restart`, which adds steps of its own.
        """
        self._changed, self._repeatable = latents, False

    @property
    def result(self) -> Result:
        """The finished pictures; steps that are left are taken first.

        Raises:
            ValueError: the drawing was closed, or broke off, before its last step.
        """
        for _ in self:
            pass
        if self._result is None:
            raise ValueError("the drawing ended before its last step, so it has no result; begin another one")
        return self._result

    def close(self) -> None:
        """Leave the drawing. Nothing has to be undone."""
        self._steps.close()
