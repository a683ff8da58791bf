"""What a call shows and lets change after each step: a bar, and diffusers' `callback_on_step_end`."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from ldm.generation.draw import DrawStep
from ldm.generation.drawing import Drawing

if TYPE_CHECKING:
    from ldm.generation.opened_model import OpenedModel

StepEnd = Callable[["OpenedModel", int, float, dict[str, Any]], dict[str, Any] | None]
"""(model, number of the step, its timestep, {"latents": x (B, C, h, w)}) -> {} or {"latents": changed ones}."""


def with_bar(drawing: Drawing) -> Iterator[DrawStep]:
    """The steps of a drawing, with a bar in the terminal or the notebook; it counts steps of each picture."""
    from tqdm.auto import tqdm

    with tqdm(total=0, unit="step") as bar:
        for step in drawing:
            bar.total = step.total * drawing.count
            bar.update(len(step.rows))
            yield step


def step_end(model: "OpenedModel", drawing: Drawing, step: DrawStep, callback: StepEnd) -> None:
    """Call diffusers' kind of callback, and go on from the latents that it returns.

    Raises:
        ValueError: it returned something else than latents, or latents that `Drawing.go_on_from` refuses.
    """
    answer = callback(model, step.index, step.timestep, {"latents": step.x.clone()}) or {}
    for name in answer:
        if name != "latents":
            raise ValueError(f"callback_on_step_end returned {name!r}; only 'latents' can be changed between steps")
    latents = answer.get("latents")
    if latents is not None and not torch.equal(latents.to(step.x), step.x):
        drawing.go_on_from(latents)
