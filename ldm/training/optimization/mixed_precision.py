"""Autocast and gradient scaling, both accelerate's: which is used, and what a scaled gradient needs."""

import os

import torch
from accelerate import Accelerator
from torch.optim import Optimizer

from ldm.engine.precision import best_dtype

_NAMES = {"no": "fp32", "bf16": "bf16", "fp16": "fp16"}


def autocast_name(precision: str) -> str:
    """accelerate's name of the autocast type for `loop.precision`.

    `auto` is what `accelerate launch --mixed_precision` said, else what the machine is fast at.

    Raises:
        ValueError: accelerate was launched with another type, or the machine cannot do it.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in _NAMES:
        raise ValueError(f"accelerate's --mixed_precision {launched} is not supported; use no, bf16 or fp16")
    gpu = torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "false").lower() not in ("true", "1")
    if precision == "auto":
        device = torch.device("cuda" if gpu else "cpu")
        precision = _NAMES[launched] if launched != "no" else ("fp32", "bf16")[best_dtype(device) == torch.bfloat16]
    elif launched != "no" and _NAMES[launched] != precision:
        raise ValueError(
            f"loop.precision={precision}, but accelerate was launched with --mixed_precision {launched}; drop one"
        )
    if precision == "fp16" and not gpu:
        raise ValueError("loop.precision=fp16 needs a CUDA GPU; use bf16 or fp32")
    return "no" if precision == "fp32" else precision


class LossScale:
    """accelerate's gradient scaler, which exists for fp16 only; without it everything here does nothing.

    fp16 holds no gradient below 6e-8, so the loss is multiplied by a large number; when a gradient overflows the step
    is skipped and the number halved (Micikevicius et al. 2018, section 3.2).
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._scaler = accelerator.scaler
        self._unscaled = False

    def unscale(self, optimizers: list[Optimizer]) -> None:
        """Divide the gradients that these optimizers hold by the scale."""
        if self._scaler is not None:
            self._unscaled = True
            for optimizer in optimizers:
                self._scaler.unscale_(optimizer)

    def update(self) -> None:
        """Adapt the scale after all trained modules have stepped."""
        if self._scaler is not None and self._unscaled:
            self._scaler.update()
            self._unscaled = False

    @property
    def is_searching(self) -> bool:
        """Whether an overflow may be the scale's fault: it can still fall."""
        return self._scaler is not None and self._scaler.get_scale() > 1

    @property
    def state(self) -> dict[str, float]:
        """State for a checkpoint; empty without a scaler."""
        return {} if self._scaler is None else self._scaler.state_dict()

    @state.setter
    def state(self, value: dict[str, float]) -> None:
        if self._scaler is not None and value:
            self._scaler.load_state_dict(value)
