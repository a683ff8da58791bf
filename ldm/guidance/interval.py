"""Guidance intervals: the part of the sampling in which guidance is on."""

import math

from ldm.process import Process

Interval = tuple[float, float]
"""(first, last) as parts of the way from noise (0) to picture (1), both ends included."""

WHOLE: Interval = (0.0, 1.0)


def inside(process: Process, t: float, interval: Interval) -> bool:
    """Whether to guide at time t (Kynkaanniemi et al. 2024).

    The place is measured by `Process.progress`, so it does not depend on the number of steps.
    """
    return interval == WHOLE or interval[0] <= process.progress(t).item() <= interval[1]


def check_interval(name: str, interval: Interval) -> None:
    """Refuse an interval unless 0 <= first <= last <= 1.

    Raises:
        ValueError: names the argument.
    """
    if len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
        raise ValueError(f"{name}={interval} must satisfy 0 <= first <= second <= 1, e.g. (0.2, 0.8)")


def check_finite(name: str, value: float) -> None:
    """Refuse NaN and infinities.

    Raises:
        ValueError: names the argument.
    """
    if not math.isfinite(value):
        raise ValueError(f"{name}={value} must be a finite number")


def check_share(name: str, value: float) -> None:
    """Refuse a value outside [0, 1].

    Raises:
        ValueError: names the argument.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value} must be between 0 and 1")
