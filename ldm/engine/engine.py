"""Engines: who runs a network, and what can be done to the network while it does."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from ldm.networks.network import Backbone

Network = Callable[..., Tensor]
"""`(x, time, conditioning, residuals=, hook=) -> output`, as `Backbone.forward`; residuals and hook only where they are
hosted."""


class Engine(Protocol):
    """Runs networks: as they are written, compiled, or by another library."""

    @property
    def hosts_hooks(self) -> bool:
        """Whether its networks take attention hooks (PAG, SEG)."""

    @property
    def hosts_residuals(self) -> bool:
        """Whether its networks take residuals (ControlNet)."""

    def network(self, backbone: Backbone) -> Network:
        """What to call in place of the backbone. The same backbone gives the same function, made once."""

    def weights_changed(self) -> None:
        """Tell the engine that weights of its networks have changed (an adapter was merged, a part was replaced)."""
