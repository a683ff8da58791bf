"""Exponential moving average of weights, with its memory measured in samples."""

import copy

import torch
from torch import nn

from ldm.training.distributed.fsdp import local


class Ema:
    """Keeps an averaged copy of a module's trainable parameters (and its newest buffers); frozen ones are shared.

    The memory is a half-life in samples, as in EDM2 (Karras et al. 2024, section 3), so it does not change with the
    batch size; early on it is shortened to `ramp` times the samples seen, so that the random start is forgotten.

    Args:
        module: the module that is trained.
        half_life: samples after which a weight has half its influence; 0 keeps the newest weights.
        ramp: largest half-life as a share of the samples seen.
    """

    def __init__(self, module: nn.Module, half_life: float, ramp: float = 0.05) -> None:
        frozen = {id(parameter): parameter for parameter in module.parameters() if not parameter.requires_grad}
        self.module = copy.deepcopy(module, frozen).eval().requires_grad_(False)
        self.half_life = half_life
        self.ramp = ramp

    @torch.no_grad()
    def update(self, module: nn.Module, batch: int, samples_seen: int) -> None:
        """Move towards `module` after an optimizer step on `batch` samples, the `samples_seen`-th included."""
        half_life = min(self.half_life, self.ramp * samples_seen)
        new_share = 1 - 0.5 ** (batch / half_life) if half_life > 0 else 1.0
        pairs = zip(self.module.parameters(), module.parameters(), strict=True)
        trained = [(local(mine), local(newest.detach())) for mine, newest in pairs if newest.requires_grad]
        torch._foreach_lerp_([mine for mine, _ in trained], [newest for _, newest in trained], new_share)
        for copied, newest in zip(self.module.buffers(), module.buffers(), strict=True):
            copied.copy_(newest)
