"""Grids given by the user: diffusers' `timesteps=[...]` and `sigmas=[...]`, ComfyUI's custom sigmas."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ldm.process import Flow, Process
from ldm.schedules.spacing import close_times


def custom_times(process: Process, timesteps: Sequence[float]) -> Tensor:
    """The grid through the given times of the process, n steps for n times.

    Args:
        process: for `DiscreteVP` the times are timesteps, e.g. [999, 749, 499, 249].
        timesteps: strictly descending; the terminal point may stand at the end or be left out.

    Raises:
        ValueError: none are given, they do not descend, or they leave the process's range.
    """
    times = _descending("timesteps", timesteps, process.terminal)
    for t in times.tolist():
        if not process.terminal < t <= process.start:
            raise ValueError(f"timesteps has {t:g}, outside ({process.terminal:g}, {process.start:g}]")
    return close_times(process, times)


def custom_sigmas(process: Process, sigmas: Sequence[float]) -> Tensor:
    """The grid through the given noise levels, n steps for n levels above 0.

    Args:
        process: decides what sigma is: the noise of the picture at scale 1, sigma / alpha (VP, EDM), or the noise's
            share of x, in (0, 1] (flow), as in all tools. A first level above the process's start is the start:
            tables are published rounded.
        sigmas: strictly descending; 0 may stand at the end or be left out.

    Raises:
        ValueError: none are given, they do not descend, or they leave the process's range.
    """
    levels = _descending("sigmas", sigmas, 0.0)
    flow = isinstance(process, Flow)
    for sigma in levels.tolist():
        if not sigma > 0 or (flow and sigma > 1):
            raise ValueError(f"sigmas has {sigma:g}; use numbers above 0{' and up to 1' if flow else ''}")
    lambdas = (1 - levels).log() - levels.log() if flow else -levels.log()
    return close_times(process, process.time_of_lambda(lambdas))


def _descending(name: str, values: Sequence[float], end: float) -> Tensor:
    """The values as float64 without an end that is already there."""
    kept = list(values[:-1] if values and values[-1] == end else values)
    if not kept:
        raise ValueError(f"{name} is empty; give the noisiest first, e.g. {name}=[999, 749, 499, 249]")
    for before, after in pairwise(kept):
        if not before > after:
            raise ValueError(f"{name} goes from {before:g} to {after:g}; they must descend")
    return torch.tensor(kept, dtype=torch.float64)
