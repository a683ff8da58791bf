"""Engines: the protocol of what runs a network (eager, compiled), and which hooks it supports."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from autoencoder.views import Module
from ldm.networks.network import Backbone

Network = Callable[..., Tensor]
"""`(x, time, conditioning, residuals=, hook=, reuse=) -> output`, as `Backbone.forward`; residuals and hook only where
they are hosted."""


class Engine(Protocol):
    """Runs networks: as they are written, compiled, or by another library."""

    @property
    def name(self) -> str:
        """What recipes call it, one of `ldm.engine.names.ENGINES`."""

    @property
    def hosts_hooks(self) -> bool:
        """Whether its networks take attention hooks (PAG, SEG)."""

    @property
    def hosts_residuals(self) -> bool:
        """Whether its networks take residuals (ControlNet)."""

    def network(self, backbone: Backbone) -> Network:
        """The function to call in place of the backbone. The same backbone gives the same function, made once."""

    def view(self, module: Module) -> Module:
        """What to use in place of an autoencoder or a text tower; the module itself where the engine has no better."""

    def weights_changed(self) -> None:
        """Called after weights of the engine's networks have changed (an adapter was merged, a part was replaced)."""
