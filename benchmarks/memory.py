"""The most memory that a process holds, and its time, to open a model of Stable Diffusion 1.5's size, and to draw.

The folder has random half-precision weights, and is in the page cache; every call has a process of its own. Opening is
timed until every weight was read once, after the imports; a drawing is of two guided steps of 512 px, opening included:
of one alone diffusers' sampler of Stable Diffusion 1 makes one evaluation less than ours, and than itself of several.
`python -m benchmarks.loading` has more on opening, and other families.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.drawing import pipelines
from benchmarks.loading import LOADERS, opener_of, write_model
from benchmarks.measuring import Comparison, Options, Outcome, Side, compare
from benchmarks.networks import family_of
from benchmarks.processes import in_processes, named, outcome_here

_STEPS = 2


def run(options: Options) -> Iterator[Comparison]:
    """Opening and drawing, on the CPU."""
    family, cpu = family_of("sd1", options.quick), torch.device("cpu")
    cells = family.size // 8
    options, turns = replace(options, device=cpu, compiled=False), options.repetitions
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_model(family, folder, options.quick)
        for dtype in options.dtypes:
            loaders = [
                Side(name, partial(_opening, name, folder, dtype), name == "ldm", name != "ldm")
                for name in reversed(LOADERS)
            ]
            opening = in_processes(loaders, turns, options, opened, folder, dtype)
            yield compare("opening SD 1.5's size", opening, options, dtype)
            shape = (1, 4, cells, cells)
            drawing = pipelines(folder, shape, _STEPS, 7.5, options, dtype)
            drawing = in_processes(drawing, turns, options, picture, folder, shape, options, dtype)
            yield compare(f"opening and two guided steps, {family.size} px", drawing, options, dtype)


def opened(loader: str, folder: Path, dtype: torch.dtype) -> Outcome:
    """Open a folder in this process and read all of its weights."""
    return outcome_here(_opening(loader, folder, dtype))


def _opening(loader: str, folder: Path, dtype: torch.dtype) -> Callable[[], Tensor]:
    """What opens a folder and gives the largest weights of all tensors in order: a sum would depend on the order."""
    open_model = opener_of(loader)

    def read() -> Tensor:
        parameters = [each for network in open_model(folder, dtype) for each in network.parameters()]
        return torch.stack([each.amax().float() for each in parameters]).sort().values

    return read


def picture(side: str, folder: Path, shape: tuple[int, ...], options: Options, dtype: torch.dtype) -> Outcome:
    """Open a folder and draw by one side, in this process."""
    sides = pipelines(folder, shape, _STEPS, 7.5, options, dtype)
    make = named(sides, side).make
    opener_of("ldm" if side.startswith("ldm") else "diffusers")  # its imports
    return outcome_here(lambda: make()())
