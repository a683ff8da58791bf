"""Attention hooks for the parts of a batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.networks.attention import attend
from ldm.networks.unet.blocks import AttentionHook


@dataclass(frozen=True)
class HookPerPart:
    """A hook for a batch of equal parts, each of which has a hook of its own or none.

    So one forward pass answers for the plain network and for a perturbed one. A part's hook sees only its rows.
    """

    hooks: tuple[AttentionHook | None, ...]

    def __call__(self, layer: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q `(B, N, Lq, D)`, k and v `(B, N, Lk, D)`, B a multiple of the number of parts; returns q's shape."""
        parts = zip(*(tensor.chunk(len(self.hooks)) for tensor in (q, k, v)), strict=True)
        outputs = [
            attend(*part) if hook is None else hook(layer, *part) for hook, part in zip(self.hooks, parts, strict=True)
        ]
        return torch.cat(outputs)
