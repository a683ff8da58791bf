"""Steps at the quantiles of a beta distribution, which is dense at both ends (Lee et al. 2024, "Beta Sampling...")."""

import math

import numpy as np
import torch
from torch import Tensor

from ldm.process import Process
from ldm.schedules.sigmas import close_sigmas, finite, sigma_range
from ldm.schedules.spacing import check_count, close

_HALVINGS = 60


def beta(process: Process, n: int, *, alpha: float = 0.6, beta: float = 0.6) -> Tensor:
    """Indices round(q(1 - i / n) (T - 1)), q the quantile function of Beta(alpha, beta).

    ("Beta Sampling is All You Need", section 4; `beta` in ComfyUI.)

    Whole indices for every process. Where two points round to the same index, the later one moves down to the next
    free index, or the earlier ones up where there is none left below; ComfyUI takes fewer steps then. A1111's `Beta`
    is `beta_sigmas`.

    Args:
        process: T is its `num_train_timesteps`.
        n: number of steps, 1 to T.
        alpha: > 0; both below 1 for a density with its weight at the ends.
        beta: > 0.

    Raises:
        ValueError: n, alpha or beta out of range.
    """
    check_count(process, n, n, whole=True)
    ramp = 1 - torch.arange(n, dtype=torch.float64) / n
    indices = (beta_quantile(ramp, alpha, beta) * (process.num_train_timesteps - 1)).round()
    return close(process, _apart(indices))


def beta_sigmas(
    process: Process,
    n: int,
    *,
    alpha: float = 0.6,
    beta: float = 0.6,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    spacing: str | None = None,
) -> Tensor:
    """sigma_i = min + q(1 - i / (n - 1)) (max - min), q as in `beta` (`use_beta_sigmas` in diffusers, `Beta` in A1111).

    Args:
        process: serves the range where it is not given.
        n: number of steps.
        alpha: > 0.
        beta: > 0.
        sigma_min: least noise above none, see `ldm.schedules.sigmas.sigma_range`.
        sigma_max: most noise.
        spacing: the even spacing that gives what of the range is None.

    Raises:
        ValueError: n < 1, alpha or beta out of range, or a range outside that of the process.
    """
    low, high, start = sigma_range(process, n, sigma_min, sigma_max, spacing)
    ramp = 1 - torch.linspace(0, 1, n, dtype=torch.float64)
    return close_sigmas(process, low + beta_quantile(ramp, alpha, beta) * (finite(high) - low), start)


def beta_quantile(p: Tensor, a: float, b: float) -> Tensor:
    """The x at which the regularised incomplete beta function I_x(a, b) is p, by bisection.

    Args:
        p: `(n,)` in [0, 1].
        a: > 0.
        b: > 0.

    Raises:
        ValueError: a or b is not positive.
    """
    if not (a > 0 and b > 0):
        raise ValueError(f"alpha={a} and beta={b} must be above 0")
    wanted = p.double().numpy()
    middle = np.array((a + 1) / (a + b + 2))
    left = wanted <= _incomplete_beta(middle, a, b)
    # right of the middle, where the fraction converges badly, by the mirror: I_x(a, b) = 1 - I_(1-x)(b, a)
    found = np.where(
        left,
        _bisect(np.where(left, wanted, 0), middle, a, b),
        1 - _bisect(np.where(left, 0, 1 - wanted), 1 - middle, b, a),
    )
    return torch.from_numpy(found)


def _bisect(wanted: np.ndarray, most: np.ndarray, a: float, b: float) -> np.ndarray:
    """The x in [0, most] at which I_x(a, b) is `wanted`."""
    low, high = np.zeros_like(wanted), np.full_like(wanted, most)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = _incomplete_beta(middle, a, b) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(wanted > 0, high, 0.0)


def _incomplete_beta(x: np.ndarray, a: float, b: float) -> np.ndarray:
    """I_x(a, b) by the continued fraction of DLMF 8.17.22, for x in (0, (a + 1) / (a + b + 2)]."""
    terms = 32 + int(4 * math.sqrt(max(a, b)))
    fraction = np.ones_like(x)
    for k in range(terms, 0, -1):
        m = k // 2
        numerator = m * (b - m) if k % 2 == 0 else -(a + m) * (a + b + m)
        fraction = 1 + numerator / ((a + k - 1) * (a + k)) * x / fraction
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return np.exp(scale + a * np.log(x) + b * np.log1p(-x)) / (a * fraction)


def _apart(indices: Tensor) -> Tensor:
    """Whole indices `(n,)` in descending order made strictly so, each moved as little as its turn allows, >= 0."""
    count = len(indices)
    floor = torch.arange(count - 1, -1, -1, dtype=indices.dtype)  # leaves room below for those still to come
    kept, free = [], math.inf
    for index in torch.maximum(indices, floor).tolist():
        free = min(index, free - 1)
        kept.append(free)
    return torch.maximum(torch.tensor(kept, dtype=indices.dtype), floor)
