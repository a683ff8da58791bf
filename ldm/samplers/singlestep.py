"""Singlestep DPM-Solvers: blocks of two or three steps of the grid, each along what was seen since its beginning.

The points of the grid within a block are the stages of a solver of order 2 or 3 over the whole block, and x there is
the stage itself: every step calls the network once, and on even steps of lambda (the schedule `exponential`) the blocks
are those of the papers, with stages at 1/2 or at 1/3 and 2/3. On other schedules the stages lie where its points do.
"""

from collections.abc import Iterator
from itertools import accumulate, pairwise

from torch import Tensor

from ldm.denoiser import Denoiser
from ldm.naming import look_up
from ldm.samplers.ancestral import exponential_step
from ldm.samplers.means import ode_step, polynomial_mean
from ldm.samplers.step import Noise, NoiseLevel, Step, levels_of

SOLVER_TYPES = {"midpoint": False, "heun": True}
"""Whether a step of `dpmpp_2s` integrates the polynomial through all that its block has seen."""


def block_sizes(levels: list[NoiseLevel], order: int) -> list[int]:
    """How many steps of the grid each block takes: `order`, and one where lambda is infinite at either end.

    What is left over makes a smaller block before the end (Lu et al. 2022, "DPM-Solver", section 3.4).
    """
    first, last = int(levels[0].alpha == 0), int(levels[-1].sigma == 0)
    inner = len(levels) - 1 - first - last
    if inner < 0:
        return [1]
    rest = inner % order
    return [1] * first + [order] * (inner // order) + [rest] * (rest > 0) + [1] * last


def _places(levels: list[NoiseLevel], order: int) -> list[tuple[int, int]]:
    """(index of its block's first level, size of its block) for each step."""
    sizes = block_sizes(levels, order)
    begins = accumulate(sizes, initial=0)
    return [(begin, size) for begin, size in zip(begins, sizes, strict=False) for _ in range(size)]


def dpm_fast(denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise, *, order: int = 3) -> Iterator[Step]:
    """DPM-Solver-fast: DPM-Solver-3 in blocks of three steps (Lu et al. 2022, "DPM-Solver", alg. 2 and 5). Order 3.

    The slope eps is integrated in lambda; the same as k-diffusion's `sample_dpm_fast` on the levels that it walks, even
    in lambda, where it ignores the schedule. The last step of a block of three goes along the line through the first
    and the last eps, which is of order 3 where the last lies at two thirds, and of order 2 elsewhere. Steps left over
    make a block of two, or of one with order 1.

    Args:
        denoise: the denoiser; one call a step.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`, best those of `exponential`.
        noise: not used.
        order: 1 to 3, of the blocks.

    Raises:
        ValueError: order out of range.
    """
    _check_order(order)
    levels = levels_of(denoise.process, grid)
    for index, ((now, then), (begin, size)) in enumerate(zip(pairwise(levels), _places(levels, order), strict=True)):
        prediction = denoise(x, now.t)
        if begin == index:
            start, first, seen = now, prediction, [(0.0, prediction.eps)]
        else:
            seen.append((now.lam - start.lam, prediction.eps))
        h = then.lam - start.lam
        whole_of_two = size == 2 and len(seen) == 2
        slope = _along_middle(seen, h) if whole_of_two else polynomial_mean(_ends(seen), h, -1.0)
        x = ode_step(start, then, first, slope)
        yield Step(index, len(levels) - 1, then.t, x, prediction)


def dpmpp_2s(
    denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise, *, order: int = 2, solver_type: str = "midpoint"
) -> Iterator[Step]:
    """DPM-Solver++(2S) over the points of the grid (Lu et al. 2022, "DPM-Solver++", alg. 1). Order 2, one call a step.

    x0 in blocks of two steps; diffusers' `DPMSolverSinglestepScheduler` and InvokeAI's `dpmpp_2s`. k-diffusion's, with
    a stage of its own and two calls in every step, is `dpmpp_2s_ancestral` with eta = 0.

    Args:
        denoise: the denoiser; one call a step.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`; on even steps of lambda the stage lies in the middle.
        noise: not used.
        order: 1 to 3, of the blocks; `solver_order` in diffusers. 3 is of order 3 where `dpm_fast` is.
        solver_type: `midpoint`, or `heun`, which integrates the polynomial through all x0 of the block exactly.

    Raises:
        ValueError: order out of range, an unknown solver_type.
    """
    _check_order(order)
    everything = look_up("solver_type", solver_type, SOLVER_TYPES)
    levels = levels_of(denoise.process, grid)
    for index, ((now, then), (begin, _)) in enumerate(zip(pairwise(levels), _places(levels, order), strict=True)):
        prediction = denoise(x, now.t)
        if begin == index:
            start, origin, seen = now, x, [(0.0, prediction.x0)]
        else:
            seen.append((now.lam - start.lam, prediction.x0))
        h = then.lam - start.lam
        if len(seen) == 2 and not everything:
            denoised = _along_middle(seen, h)
        else:
            denoised = polynomial_mean(seen if everything else _ends(seen), h, 1.0)
        x = exponential_step(origin, start, then, denoised)
        yield Step(index, len(levels) - 1, then.t, x, prediction)


def _ends(seen: list[tuple[float, Tensor]]) -> list[tuple[float, Tensor]]:
    return seen if len(seen) < 3 else [seen[0], seen[-1]]


def _along_middle(seen: list[tuple[float, Tensor]], h: float) -> Tensor:
    """The value halfway in lambda of the line through two: what DPM-Solver-2 takes for the mean of the step."""
    (_, first), (place, second) = seen
    return first + h / (2 * place) * (second - first)


def _check_order(order: int) -> None:
    if order not in (1, 2, 3):
        raise ValueError(f"order={order} must be a whole number from 1 to 3")
