"""Engines: the protocol of what runs a network (eager, compiled), and which options it supports."""

from typing import Protocol

from autoencoder.views import Module
from ldm.networks.network import Backbone, Network


class Engine(Protocol):
    """Runs networks: as they are written, compiled, or by another library."""

    @property
    def name(self) -> str:
        """What recipes call it, one of `ldm.engine.names.ENGINES`."""

    @property
    def hosts(self) -> frozenset[str]:
        """Names of the `NetworkOptions` that its networks take: hooks (PAG, SEG), residuals (ControlNet)."""

    def network(self, backbone: Backbone) -> Network:
        """The function to call in place of the backbone. The same backbone gives the same function, made once."""

    def view(self, module: Module) -> Module:
        """What to use in place of an autoencoder or a text tower; the module itself where the engine has no better."""

    def weights_changed(self) -> None:
        """Called after weights of the engine's networks have changed (an adapter was merged, a part was replaced)."""
