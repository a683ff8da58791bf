"""UniPC: a multistep predictor in x0, corrected by the network call that the next step makes anyway."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from ldm.denoiser import Denoiser
from ldm.naming import look_up
from ldm.samplers.ancestral import exponential_step
from ldm.samplers.means import polynomial_mean
from ldm.samplers.step import Noise, Step, levels_of

SOLVER_TYPES: dict[str, Callable[[float], float]] = {
    "bh1": lambda h: 0.5 * h / -math.expm1(-h) if h < math.inf else 0.0,
    "bh2": lambda h: 0.5,
}
"""B(h) / (2 (e^(-h) - 1)) for B(h) = -h and e^(-h) - 1: the weight of the one difference where there are two x0. With
three and more, B(h) cancels. After a start at alpha = 0, where h is infinite, bh1 has no weight to give."""


def unipc(
    denoise: Denoiser,
    x: Tensor,
    grid: Tensor,
    noise: Noise,
    *,
    order: int = 2,
    solver_type: str = "bh2",
    lower_order_final: bool = True,
) -> Iterator[Step]:
    """UniPC-p in x0 (Zhao et al. 2023, "UniPC", alg. 5 and 6 with eq. 9 and 10). One call a step.

    Predicts along the last p values of x0; once the next call has answered, does the step again with the answer as one
    more value. Steps yield the predicted x. A step to sigma = 0 is of order 1. Order 2, which `lower_order_final=False`
    makes 3 where the grid ends above sigma = 0.

    Args:
        denoise: the denoiser.
        x: `(B, C, h, w)` at time `grid[0]`.
        grid: descending times `(n + 1,)`.
        noise: not used.
        order: p, 1 to 3; `solver_order` in diffusers.
        solver_type: `bh1` or `bh2`, the weight of the difference where there is but one.
        lower_order_final: the last step is of order 1 and the last but one at most of order 2.

    Raises:
        ValueError: order out of range, an unknown solver_type.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order={order} must be a whole number from 1 to 3")
    half = look_up("solver_type", solver_type, SOLVER_TYPES)
    levels, total = levels_of(denoise.process, grid), len(grid) - 1
    known: list[tuple[float, Tensor]] = []
    before, origin, used = levels[0], x, 1
    for index, (now, then) in enumerate(pairwise(levels)):
        prediction = denoise(x, now.t)
        answer = now.lam, prediction.x0
        if index > 0:
            x = exponential_step(origin, before, now, _mean_x0([*known[:used], answer], now.lam - before.lam, half))
        known = [answer, *(point for point in known if point[0] > -math.inf)][:order]
        h = then.lam - now.lam
        used = min(len(known), total - index if lower_order_final else order) if 0 < h < math.inf else 1
        before, origin = now, x
        x = exponential_step(x, now, then, _mean_x0(known[:used], h, half))
        yield Step(index, total, then.t, x, prediction)


def _mean_x0(points: Sequence[tuple[float, Tensor]], h: float, half: Callable[[float], float]) -> Tensor:
    """The mean of x0 over a step of length h in lambda, from (lambda, x0) pairs; the step begins at the first."""
    begin, x0 = points[0]
    if len(points) == 2:
        end, other = points[1]
        return x0 + half(h) * (1.0 if end - begin == h else h / (end - begin)) * (other - x0)
    return polynomial_mean([(lam - begin, value) for lam, value in points], h, 1.0)
