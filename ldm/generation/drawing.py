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

    def __init__(self, steps: Generator[DrawStep, None, Tensor], finish: Callable[[Tensor], Result]) -> None:
        """Wrap the steps of a drawing.

        Args:
            steps: as of `ldm.generation.draw.draw`.
            finish: turns denoised latents into pictures.
        """
        self._steps, self._finish = steps, finish
        self._seconds = 0.0
        self._result: Result | None = None

    def __next__(self) -> DrawStep:
        started = perf_counter()
        try:
            with torch.inference_mode():
                return next(self._steps)
        except StopIteration as end:
            if end.value is not None:
                finished = self._finish(end.value)
                self._result = replace(finished, seconds=self._seconds + perf_counter() - started)
            raise StopIteration from None
        finally:
            self._seconds += perf_counter() - started

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
