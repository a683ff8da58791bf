"""Perturbed-attention guidance (PAG): away from a network that sees no structure."""

from dataclasses import dataclass

from torch import Tensor

from ldm.guidance.attention import AttentionGuidance
from ldm.networks.attention import AttentionHook, AttentionLayer


@dataclass(frozen=True)
class IdentityAttention:
    """In the given layers every token attends to itself alone: the attention map is the identity."""

    layers: frozenset[str]

    def __call__(self, layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q, k, v `(B, N, L, D)`, mask `(B, L)`; returns q's shape."""
        return v if layer.name in self.layers else layer.attend(q, k, v, mask)


class PerturbedAttentionGuidance(AttentionGuidance):
    """`AttentionGuidance` with identity attention (Ahn et al. 2024, "PAG").

    `pag_scale` is 3 in the paper and in diffusers, with or without a prompt.
    """

    word = "pag"

    def _hook(self, x: Tensor) -> AttentionHook:
        return IdentityAttention(self.layers)
