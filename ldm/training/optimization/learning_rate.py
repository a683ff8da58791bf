"""The learning rate as a function of training progress."""

import math


def _constant(step: int, total: int, warmup: int, cooldown: float) -> float:
    return 1.0


def _cosine(step: int, total: int, warmup: int, cooldown: float) -> float:
    """Half a cosine from the end of the warm-up to the end of the training (Loshchilov & Hutter 2017, eq. 5)."""
    return 0.5 * (1 + math.cos(math.pi * _after_warmup(step, total, warmup)))


def _linear(step: int, total: int, warmup: int, cooldown: float) -> float:
    return 1 - _after_warmup(step, total, warmup)


def _cooldown(step: int, total: int, warmup: int, cooldown: float) -> float:
    """Constant, then a fall to zero as 1 - sqrt over the last `cooldown` share (Hägele et al. 2024, eq. 1)."""
    progress = min(step / max(total, 1), 1.0)
    into = (progress - (1 - cooldown)) / cooldown if cooldown > 0 else 0.0
    return 1 - math.sqrt(min(max(into, 0.0), 1.0))


def _after_warmup(step: int, total: int, warmup: int) -> float:
    """How far `step` is between the end of the warm-up (0) and of the training (1)."""
    return min(max((step - warmup) / max(total - warmup, 1), 0.0), 1.0)


SHAPES = {"constant": _constant, "cosine": _cosine, "linear": _linear, "cooldown": _cooldown, "wsd": _cooldown}
"""The courses by name; `cooldown` is what others call warmup-stable-decay, WSD."""


def learning_rate(step: int, total: int, *, peak: float, warmup: int, shape: str, cooldown: float) -> float:
    """The rate of optimizer step `step` in [0, total): a linear warm-up of `warmup` steps, then `shape`.

    It depends on nothing but optimizer steps, so processes and gradient accumulation do not change it.
    """
    rise = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
    return peak * rise * SHAPES[shape](step, total, warmup, cooldown)
