"""Token merging: self-attention among fewer tokens, those that are alike taken together (Bolya and Hoffman 2023)."""

import struct
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ldm.networks.attention import AttentionLayer
from ldm.networks.network import Backbone


@dataclass(frozen=True)
class TokenMerging:
    """Token merging for Stable Diffusion (arXiv 2303.17604), of the self-attention layers of the finest resolution.

    In every 2 x 2 tokens one is drawn that the others may join. The share `ratio` of all tokens that are most like one
    of these, by the cosine of their keys, joins it: attention is among the means, and each token gets what its mean
    got. The published code compares the block's input in place of keys, and means are the same, as queries, keys and
    values are linear. What is drawn depends on the time alone: pictures, branches and layers share it.

    Attributes:
        ratio: 0 is off, more than 0.75 as 0.75: of every 2 x 2 tokens one remains.
    """

    ratio: float

    def hook(self, backbone: Backbone, height: int, width: int, t: float) -> "MergedAttention":
        """An attention hook for one evaluation, which treats each sample of the batch by itself.

        Args:
            backbone: the network.
            height: of its x `(B, C, height, width)`.
            width: likewise.
            t: the time, which decides what is drawn.
        """
        grids = {name: backbone.token_grid(name, height, width) for name in backbone.self_attention_layers}
        finest = max(grids.values(), default=(0, 0))
        layers = frozenset(name for name, grid in grids.items() if grid == finest)
        (seed,) = struct.unpack(">q", struct.pack(">d", t))
        return MergedAttention(layers, self.ratio, destinations(*finest, seed))


@dataclass(frozen=True, eq=False)
class MergedAttention:
    """The attention of some layers among merged tokens; an `AttentionHook`.

    Attributes:
        layers: their names.
        ratio: share of the tokens to merge.
        destinations: tokens that others may join, `(L,)` bool.
    """

    layers: frozenset[str]
    ratio: float
    destinations: Tensor

    def __call__(self, layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q, k and v `(B, N, L, D)`; returns q's shape."""
        if layer.name not in self.layers:
            return layer.attend(q, k, v, mask)
        merged = MergedTokens.of(_whole(k), self.destinations.to(k.device), int(self.ratio * k.shape[2]))
        out = layer.attend(*(_by_head(merged.merge(_whole(x)), x.shape[1]) for x in (q, k, v)))
        return _by_head(merged.unmerge(_whole(out)), out.shape[1])


@dataclass(frozen=True, eq=False)
class MergedTokens:
    """Which tokens are taken together.

    Attributes:
        place: of each token, where it is among the merged ones of the whole batch: `(B, L)`, 0 to B * count - 1.
        count: merged tokens of a sample.
    """

    place: Tensor
    count: int

    @classmethod
    def of(cls, features: Tensor, destinations: Tensor, merge: int) -> "MergedTokens":
        """Let the tokens most like one of the destinations join it.

        Args:
            features: (B, L, C), which are compared.
            destinations: (L,) bool.
            merge: how many tokens join; all but the destinations at most.
        """
        batch, length, _ = features.shape
        to, others = destinations.nonzero()[:, 0], (~destinations).nonzero()[:, 0]
        merge = min(merge, len(others)) if len(to) else 0
        stay = len(others) - merge
        unit = F.normalize(features.detach(), dim=-1)
        place = torch.empty(batch, length, dtype=torch.long, device=features.device)
        place[:, to] = torch.arange(len(to), device=place.device)
        if merge:
            alike, nearest = (unit[:, others] @ unit[:, to].transpose(1, 2)).max(-1)
            least = alike.argsort(dim=-1, stable=True)[:, :stay]
        else:
            nearest = least = torch.arange(stay, device=place.device).expand(batch, -1)
        own = torch.arange(len(to), len(to) + stay, device=place.device).expand(batch, -1)
        place[:, others] = nearest.scatter(1, least, own)
        count = len(to) + stay
        return cls(place + count * torch.arange(batch, device=place.device)[:, None], count)

    def merge(self, x: Tensor) -> Tensor:
        """The means (B, count, C) of tokens (B, L, C), summed in fp32."""
        batch, _, channels = x.shape
        place = self.place.flatten()
        total = torch.zeros(batch * self.count, channels, dtype=torch.float32, device=x.device)
        number = torch.zeros(batch * self.count, dtype=torch.float32, device=x.device)
        total = total.index_add(0, place, x.flatten(0, 1).float())
        number = number.index_add(0, place, torch.ones_like(place, dtype=torch.float32))
        return (total / number[:, None]).to(x.dtype).unflatten(0, (batch, self.count))

    def unmerge(self, merged: Tensor) -> Tensor:
        """(B, count, C) -> (B, L, C): each token gets what became of its mean."""
        return merged.flatten(0, 1)[self.place]


def destinations(height: int, width: int, seed: int) -> Tensor:
    """One token of every whole 2 x 2 of a grid, at random: (height * width,) bool."""
    rows, columns = height // 2, width // 2
    corner = torch.randint(4, (rows, columns), generator=torch.Generator().manual_seed(seed))
    chosen = torch.zeros(height, width, dtype=torch.bool)
    chosen[2 * torch.arange(rows)[:, None] + corner // 2, 2 * torch.arange(columns) + corner % 2] = True
    return chosen.flatten()


def _whole(x: Tensor) -> Tensor:
    """(B, N, L, D) -> (B, L, N * D)."""
    return x.transpose(1, 2).flatten(2)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(B, L, N * D) -> (B, N, L, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
