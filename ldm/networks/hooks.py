"""Attention hooks for the parts of a batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.networks.attention import AttentionHook, AttentionLayer


@dataclass(frozen=True)
class HookPerPart:
    """A hook for a batch of equal parts, each of which has a hook of its own or none.

    So one forward pass answers for the plain network and for a perturbed one. A part's hook sees only its rows.
    """

    hooks: tuple[AttentionHook | None, ...]

    def __call__(self, layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q `(B, N, Lq, D)`, k and v `(B, N, Lk, D)`, mask `(B, Lk)`, B a multiple of the parts; returns q's shape."""
        count = len(self.hooks)
        masks = [None] * count if mask is None else mask.chunk(count)
        parts = zip(q.chunk(count), k.chunk(count), v.chunk(count), masks, strict=True)
        outputs = [
            layer.attend(*part) if hook is None else hook(layer, *part)
            for hook, part in zip(self.hooks, parts, strict=True)
        ]
        return torch.cat(outputs)
