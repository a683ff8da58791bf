"""Samplers: pure generators that walk x down a grid of times.

Each is a function `(denoise, x, grid, noise, *, own options) -> Iterator[Step]` without state that serves every
process. Progress, previews, cancelling and grad mode belong to whoever runs the generator. `table` says what there is
without importing any of it; the functions stand in modules of their own, `ldm.samplers.ddim.ddim` and so on.
"""

from typing import TYPE_CHECKING, Any

from ldm.samplers.table import SAMPLER_TABLE, SamplerInfo

if TYPE_CHECKING:
    from ldm.samplers.by_name import INVERSIONS, SAMPLERS, Sampler, make_sampler
    from ldm.samplers.step import Noise, NoiseLevel, Step, levels_of

__all__ = [
    "INVERSIONS",
    "SAMPLERS",
    "SAMPLER_TABLE",
    "Noise",
    "NoiseLevel",
    "Sampler",
    "SamplerInfo",
    "Step",
    "levels_of",
    "make_sampler",
]


def __getattr__(name: str) -> Any:
    """Import the functions, and torch with them, only when they are used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ldm.samplers import by_name, step

    return getattr(by_name if hasattr(by_name, name) else step, name)
