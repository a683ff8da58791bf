"""Perturbed-attention guidance (PAG): away from a network that sees no structure."""

from dataclasses import dataclass

from torch import Tensor

from ldm.guidance.attention import AttentionGuidance
from ldm.networks.attention import attend
from ldm.networks.unet.blocks import AttentionHook


@dataclass(frozen=True)
class IdentityAttention:
    """In the given layers every token attends to itself alone: the attention map is the identity."""

    layers: frozenset[str]

    def __call__(self, layer: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v `(B, N, L, D)`; returns the same shape."""
        return v if layer in self.layers else attend(q, k, v)


class PerturbedAttentionGuidance(AttentionGuidance):
    """`AttentionGuidance` with identity attention (Ahn et al. 2024, "PAG"); `pag_scale` is 3 in the paper and in
    diffusers, with or without a prompt."""

    word = "pag"

    def _hook(self, x: Tensor) -> AttentionHook:
        return IdentityAttention(self.layers)
