"""The protocol of denoising networks: what U-Nets and transformers have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from conditioning.bundle import Conditioning
from ldm.networks.attention import AttentionHook


@dataclass(frozen=True, eq=False)
class Residuals:
    """Features that a side network (ControlNet) adds.

    Attributes:
        down: one (B, C, h, w) per skip connection, finest first.
        mid: of the middle block, (B, C, h, w).
    """

    down: tuple[Tensor, ...]
    mid: Tensor

    def __getitem__(self, rows: slice) -> "Residuals":
        """Those of some samples of the batch."""
        return Residuals(tuple(skip[rows] for skip in self.down), self.mid[rows])


def join_residuals(parts: Sequence[Residuals | None]) -> Residuals:
    """Residuals for the joint batch of several passes; a pass without any gets zeros.

    Args:
        parts: one per pass, all of the same batch size and the same network.

    Raises:
        ValueError: no pass has any.
    """
    first = next((part for part in parts if part is not None), None)
    if first is None:
        raise ValueError("no pass has residuals; give at least one")
    zeros = Residuals(tuple(torch.zeros_like(skip) for skip in first.down), torch.zeros_like(first.mid))
    whole = [zeros if part is None else part for part in parts]
    down = (torch.cat(skips) for skips in zip(*(part.down for part in whole), strict=True))
    return Residuals(tuple(down), torch.cat([part.mid for part in whole]))


class FeatureReuse(Protocol):
    """Stands between a network's shallow blocks and the deep part that they enclose, in one call of the network."""

    @property
    def depth(self) -> int:
        """How many blocks and samplings run before the deep part; one more block runs after it."""

    def __call__(self, before: Tensor, x: Tensor, deep: Callable[[Tensor], Tensor]) -> Tensor:
        """What the deep part gives, computed or remembered.

        Args:
            before: the map (B, C, h, w) that the first block is given.
            x: the map that the deep part is given.
            deep: computes the deep part.
        """


@runtime_checkable
class Backbone(Protocol):
    """A denoising network: a U-Net, and whatever else predicts from a noisy latent, a time and a `Conditioning`."""

    @property
    def in_channels(self) -> int:
        """Channels of x and of `Conditioning.concat` together."""

    @property
    def out_channels(self) -> int:
        """Channels of the latent."""

    @property
    def patch(self) -> int:
        """Height and width of x must be multiples of this."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the fields of `Conditioning` that it cannot do without."""

    @property
    def self_attention_layers(self) -> tuple[str, ...]:
        """Names of the layers in which the picture attends to itself, in the order in which the network holds them."""

    @property
    def repeated_blocks(self) -> Sequence[nn.Module]:
        """Its blocks, none inside another: the units of checkpointing, compilation and sharding."""

    def token_grid(self, layer: str, height: int, width: int) -> tuple[int, int]:
        """Height and width, in tokens, of the picture in a self-attention layer, for x `(B, C, height, width)`."""

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        conditioning: Conditioning | None = None,
        residuals: Residuals | None = None,
        hook: AttentionHook | None = None,
        reuse: FeatureReuse | None = None,
    ) -> Tensor:
        """One evaluation.

        Args:
            x: (B, C, h, w), without the channels of `conditioning.concat`.
            time: (B,) or scalar, in the units that the model was trained with.
            conditioning: what to draw, batch B.
            residuals: what a side network adds.
            hook: computes every attention in the layer's place.
            reuse: computes the deep part, or remembers it; residuals and it exclude each other.

        Returns:
            (B, out_channels, h, w).
        """

    def __call__(
        self,
        x: Tensor,
        time: Tensor,
        conditioning: Conditioning | None = None,
        residuals: Residuals | None = None,
        hook: AttentionHook | None = None,
        reuse: FeatureReuse | None = None,
    ) -> Tensor:
        """`forward`."""
