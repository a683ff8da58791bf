"""The learning rate as a function of training progress."""

import math


def _constant(progress: float, cooldown: float) -> float:
    return 1.0


def _cosine(progress: float, cooldown: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _cooldown(progress: float, cooldown: float) -> float:
    """Constant, then a fall to zero as 1 - sqrt over the last `cooldown` share (Hägele et al. 2024, eq. 1)."""
    into = (progress - (1 - cooldown)) / cooldown if cooldown > 0 else 0.0
    return 1 - math.sqrt(min(max(into, 0.0), 1.0))


SHAPES = {"constant": _constant, "cosine": _cosine, "cooldown": _cooldown}


def learning_rate(step: int, total: int, *, peak: float, warmup: int, shape: str, cooldown: float) -> float:
    """The rate of optimizer step `step` in [0, total): a linear warm-up of `warmup` steps, then `shape`.

    It depends on nothing but optimizer steps, so processes and gradient accumulation do not change it.
    """
    rise = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
    return peak * rise * SHAPES[shape](min(step / max(total, 1), 1.0), cooldown)
