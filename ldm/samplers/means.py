"""Formulas of multistep samplers: the mean of x0 or eps over a step, and the step that follows from a mean of eps.

The probability-flow ODE, d(x / alpha) = eps d(rho) or d(x / sigma) = x0 d(1 / rho) with rho = sigma / alpha, is solved
by a mean over the step: of eps with respect to rho (`ode_step`), or of x0 with respect to 1 / rho
(`ldm.samplers.ancestral.exponential_step`). The samplers differ in how they guess that mean.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from ldm.denoiser import Prediction
from ldm.samplers.step import NoiseLevel


def ode_step(now: NoiseLevel, then: NoiseLevel, prediction: Prediction, slope: Tensor) -> Tensor:
    """x' = alpha' (x / alpha + (rho' - rho) slope), `(B, C, h, w)`: exact where `slope` is the mean of eps over rho.

    Written as the step of `ddim` and a correction, which loses no digits where alpha is small. From alpha = 0, where
    rho is infinite, it is the step of `ddim` whatever the slope.
    """
    x = then.alpha * prediction.x0 + then.sigma * prediction.eps
    if now.alpha == 0 or slope is prediction.eps:
        return x
    return x + (then.sigma - now.sigma * then.alpha / now.alpha) * (slope - prediction.eps)


def mean(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """The sum of weights[i] * values[i] for weights that sum to 1; exactly the value where all values are the same."""
    total = values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total = total + weight * (value - values[0])
    return total


def polynomial_mean(points: Sequence[tuple[float, Tensor]], length: float, rate: float = 0.0) -> Tensor:
    """The mean over l in [0, length], with density e^(rate l), of the polynomial through `points`.

    With l counted from lambda at the step's beginning, rate -1 is the mean of eps over rho (DEIS: Zhang and Chen 2023,
    eq. 15) and rate 1 the mean of x0 over 1 / rho (DPM-Solver++, UniPC); with l counted in rho, rate 0 is the mean of
    eps over rho (Adams and Bashforth; k-diffusion's LMS).

    Args:
        points: (l, value) pairs with distinct l, at most four. A single one is its own mean.
        length: of the step, finite where there are several points.
        rate: of the density.
    """
    if len(points) == 1:
        return points[0][1]
    moments = _moments(rate * length, len(points))
    weights = []
    for j, (own, _) in enumerate(points):
        basis = [1.0]  # coefficients of Lagrange's polynomial j, the constant first
        for other in (place for i, (place, _) in enumerate(points) if i != j):
            lower, higher = [-other * c for c in basis] + [0.0], [0.0] + basis
            basis = [(a + b) / (own - other) for a, b in zip(lower, higher, strict=True)]
        weights.append(sum(c * length**k * moment for k, (c, moment) in enumerate(zip(basis, moments, strict=True))))
    return mean(weights, [value for _, value in points])


def _moments(z: float, count: int) -> list[float]:
    """The means of u^k over u in [0, 1] with density e^(z u), k < count (the phi functions of exponential methods)."""
    if z == 0:
        return [1 / (k + 1) for k in range(count)]
    if abs(z) < 1:  # the recurrence would lose digits
        series = [
            sum((-z) ** j * math.factorial(k) / math.factorial(k + j + 1) for j in range(18)) for k in range(count)
        ]
        return [value / series[0] for value in series]
    integrals = [-math.expm1(-z) / z]
    for k in range(1, count):
        integrals.append((1 - k * integrals[-1]) / z)
    return [value / integrals[0] for value in integrals]
