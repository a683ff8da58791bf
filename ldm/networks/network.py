"""The protocol of denoising networks: what U-Nets and transformers have in common."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from conditioning.bundle import Conditioning
from ldm.networks.options import PLAIN, NetworkOptions


class Network(Protocol):
    """A denoising network as a function: all that a sampler's denoiser calls."""

    def __call__(
        self,
        x: Tensor,
        time: Tensor,
        conditioning: Conditioning | None = None,
        options: NetworkOptions = PLAIN,
    ) -> Tensor:
        """One evaluation.

        Args:
            x: (B, C, h, w), without the channels of `conditioning.concat`.
            time: (B,) or scalar, in the units that the model was trained with.
            conditioning: what to draw, batch B.
            options: what else takes part, batch B.

        Returns:
            (B, out_channels, h, w).
        """


@runtime_checkable
class Backbone(Network, Protocol):
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
