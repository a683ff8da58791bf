"""Strength: which share of a schedule is walked, with the first level put into the grid exactly."""

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ldm.generation.sampling import Sampling
from ldm.process import Process

if TYPE_CHECKING:
    from ldm.generation.resolve import ResolvedRequest


@dataclass(frozen=True, eq=False)
class PartOfGrid:
    """The rest of a schedule.

    Attributes:
        times: the grid `(n + 1,)`, which begins at the level of the strength.
        left: how much of the whole schedule is left at each of them, `(n + 1,)`; the strength first, 0 last.
    """

    times: Tensor
    left: Tensor

    def left_at(self, t: float) -> float:
        """How much of the schedule is left at a time, between the grid's times too."""
        later = int((self.times > t).sum())  # times descend
        if later == 0 or later == len(self.times):
            return self.left[min(later, len(self.left) - 1)].item()
        before, after = self.times[later - 1].item(), self.times[later].item()
        share = (before - t) / (before - after)
        start, end = self.left[later - 1].item(), self.left[later].item()
        return end if share == 1 else start + share * (end - start)


def walk_of(resolved: "ResolvedRequest", strength: float, steps_scale: bool) -> tuple[PartOfGrid, int]:
    """The times of a walk, and how many of its steps are left out.

    Args:
        resolved: whose schedule it is.
        strength: above 0, up to 1.
        steps_scale: the requested steps are those of the whole schedule, of which int(n * strength) are taken.
    """
    steps = len(resolved.grid) - 1
    if not steps_scale:
        return part_of_grid(resolved.sampling, resolved.process, resolved.grid, strength), 0
    left = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
    return PartOfGrid(resolved.grid, left), steps - int(steps * strength)


def part_of_grid(sampling: Sampling, process: Process, grid: Tensor, strength: float) -> PartOfGrid:
    """The times of as many steps as `grid` has, over the last `strength` of the schedule.

    They are those of the same schedule with so many more steps that this many are left, and before them the level at
    exactly the fraction 1 - strength, which lies between two of them or on one. Where the schedule cannot have so many
    steps (written times, whole training timesteps), the times are spread evenly over what it has.

    Args:
        sampling: whose schedule it is.
        process: whose times they are.
        grid: of the whole schedule, `(n + 1,)`.
        strength: above 0, up to 1.
    """
    steps = len(grid) - 1
    share = Fraction(strength).limit_denominator(10**6)
    whole = int(steps / share)
    longer = grid if whole == steps else _longer(sampling, process, whole)
    if longer is not None:
        first = float((1 - share) * whole)
        places = torch.cat([torch.tensor([first]).double(), torch.arange(whole - steps + 1, whole + 1).double()])
    else:
        longer, whole = grid, steps
        places = torch.linspace(float((1 - share) * steps), steps, steps + 1, dtype=torch.float64)
    left = 1 - places / whole
    left[0] = strength
    return PartOfGrid(_at(longer, places), left)


def _longer(sampling: Sampling, process: Process, steps: int) -> Tensor | None:
    """The schedule with so many steps; None where it cannot have them."""
    try:
        return sampling.grid(process, steps)
    except ValueError:
        return None


def _at(grid: Tensor, places: Tensor) -> Tensor:
    """The grid's times at places that may lie between two, where time is linear."""
    before = places.floor().long().clamp(max=len(grid) - 1)
    after = (before + 1).clamp(max=len(grid) - 1)
    return torch.lerp(grid[before], grid[after], places - before)
