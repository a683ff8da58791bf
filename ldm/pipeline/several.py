"""Tasks of one picture, or of several: these are drawn one after the other, and their results become one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ldm.generation.first_noise import draw_seed
from ldm.generation.result import Result
from ldm.generation.task import Task
from ldm.tasks.picture import Picture, PictureLike

Pictures = PictureLike | Sequence[PictureLike]
"""A picture, or a list of them."""

_ONE_EACH = ("negative_prompt", "prompt_2", "negative_prompt_2", "generator")
_ROWS = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")


def draw_pictures(
    draw: Callable[..., Result],
    prompt: str | Sequence[str] | None,
    task: Callable[..., Task],
    pictures: Mapping[str, Pictures | None],
    options: Mapping[str, Any],
) -> Result:
    """Draw the task of a picture, or those of several.

    Args:
        draw: a model.
        prompt: one for all, or one each.
        task: makes the task of the pictures that it is given by their names.
        pictures: by these names, `picture` first, which says how many there are; the others are one for all or one
            each.
        options: of the call. The seed counts up over all pictures; texts and generators are one for all or one each,
            and embeddings have a row each.

    Raises:
        ValueError: no picture, or another number of anything than of pictures.
    """
    if not _is_several(pictures["picture"]):
        own = {name: None if given is None else Picture.of(given) for name, given in pictures.items()}  # type: ignore[arg-type]
        return draw(prompt, task=task(**own), **options)
    count = len(pictures["picture"])  # type: ignore[arg-type]
    if not count:
        raise ValueError("image is an empty list; give at least one picture")
    prompts = _one_each("prompt", prompt, count)
    given = {name: _one_each(name, value, count) for name, value in pictures.items()}
    own_options = _options_of_each(options, count)
    return _joined(
        [
            draw_pictures(draw, prompts[number], task, {name: each[number] for name, each in given.items()}, own)
            for number, own in enumerate(own_options)
        ]
    )


def _is_several(given: object) -> bool:
    return isinstance(given, list | tuple)


def _one_each(name: str, given: Any, count: int) -> list[Any]:
    """What was given as one for all pictures, or as a list of one each."""
    if not _is_several(given):
        return [given] * count
    if len(given) != count:
        raise ValueError(f"{name} has {len(given)} entries for {count} pictures; give one, or one each")
    return list(given)


def _options_of_each(options: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """The options of a call, picture by picture."""
    each = {name: _one_each(name, options[name], count) for name in _ONE_EACH if name in options}
    for name in _ROWS:
        if options.get(name) is not None:
            each[name] = _one_each(name, list(options[name].split(1)), count)
    counted = "variation_seed" if options.get("variation_strength") else "seed"
    if options.get("generator") is None:
        first = options.get(counted)
        first, times = draw_seed() if first is None else first, options.get("num_images_per_prompt", 1)
        each[counted] = [first + number * times for number in range(count)]
    return [{**options, **{name: values[number] for name, values in each.items()}} for number in range(count)]


def _joined(results: Sequence[Result]) -> Result:
    """Pictures as a list if they are one, and else as one tensor or array, which needs pictures of one size."""
    images = [result.images for result in results]
    repeatable = all(result.recipes for result in results)
    joined: Any
    if isinstance(images[0], list):
        joined = [image for each in images for image in each]
    else:
        if len({each.shape[1:] for each in images}) > 1:
            raise ValueError("pictures of different sizes are no single array; use output_type='pil'")
        joined = torch.cat(images) if isinstance(images[0], torch.Tensor) else np.concatenate(images)
    return replace(
        results[0],
        images=joined,
        seeds=[seed for result in results for seed in result.seeds],
        prompts=[prompt for result in results for prompt in result.prompts],
        recipes=[recipe for result in results for recipe in result.recipes] if repeatable else [],
        tokens=[tokens for result in results for tokens in result.tokens],
        seconds=sum(result.seconds for result in results),
    )
