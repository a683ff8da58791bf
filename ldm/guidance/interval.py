"""Guidance intervals: the part of the sampling in which guidance is on."""

import math

from ldm.naming import look_up
from ldm.process import Process

Interval = tuple[float, float] | str
"""(first, last) as parts of the way from noise (0) to picture (1), both ends included; or a key of `PRESETS`."""

WHOLE: Interval = (0.0, 1.0)

PRESETS = {"sdxl": (0.28, 5.42), "sd1": (0.28, 5.42), "dit": (0.34, 1.02)}
"""Published intervals as noise levels sigma / alpha, the first excluded: of Stable Diffusion XL (Kynkaanniemi et al.
2024, section 3.3, chosen by eye, with guidance 16) and of DiT-XL/2 of ImageNet 256 (table 1 there, with guidance 2.5).
Nobody published one for Stable Diffusion 1, which has XL's noise levels: the name stands for XL's."""


def inside(process: Process, t: float, interval: Interval) -> bool:
    """Whether to guide at time t (Kynkaanniemi et al. 2024).

    The place is measured by `Process.progress`, or by the noise level for a preset, so it does not depend on the number
    of steps.
    """
    if isinstance(interval, str):
        alpha, sigma = (level.item() for level in process.levels(t))
        least, most = PRESETS[interval]
        return least * alpha < sigma <= most * alpha
    return interval == WHOLE or interval[0] <= process.progress(t).item() <= interval[1]


def check_interval(name: str, interval: Interval) -> None:
    """Refuse an interval unless 0 <= first <= last <= 1, and a word that is no preset.

    Raises:
        ValueError: names the argument.
    """
    if isinstance(interval, str):
        look_up(name, interval, PRESETS)
    elif len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
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
