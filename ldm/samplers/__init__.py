"""Samplers: pure generators that walk x down a grid of times.

Each is a function `(denoise, x, grid, noise, *, own options) -> Iterator[Step]` without state that serves every
process. Progress, previews, cancelling and grad mode belong to whoever runs the generator.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from ldm.naming import check_options, look_up
from ldm.samplers.ddim import ddim, ddpm, euler
from ldm.samplers.dpmpp import dpmpp_2m
from ldm.samplers.heun import heun
from ldm.samplers.step import Level, Noise, Step, levels_of

Sampler = Callable[..., Iterator[Step]]
"""(denoise, x (B, C, h, w), grid (n + 1,), noise, *, own options) -> Iterator[Step]."""

SAMPLERS: dict[str, Sampler] = {"ddpm": ddpm, "ddim": ddim, "euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m}


def make_sampler(name: str, options: Mapping[str, int | float | bool] | None = None) -> Sampler:
    """A sampler by name, with its own options filled in.

    Args:
        name: a key of `SAMPLERS`.
        options: e.g. `{"eta": 0.5}` for `ddim`.

    Raises:
        ValueError: an unknown name or option; offers the nearest.
    """
    sampler = look_up("sampler", name, SAMPLERS)
    check_options(f"sampler {name!r}", sampler, options or {})
    return partial(sampler, **options) if options else sampler


__all__ = [
    "SAMPLERS",
    "Level",
    "Noise",
    "Sampler",
    "Step",
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "euler",
    "heun",
    "levels_of",
    "make_sampler",
]
