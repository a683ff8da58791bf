"""The default engine: PyTorch, operator by operator."""

from autoencoder.views import Module
from ldm.engine.names import EAGER_NAME
from ldm.networks.network import Backbone, Network
from ldm.networks.options import EVERY


class EagerEngine:
    """Runs a network as it is written; hosts everything, and sees changed weights by itself."""

    name = EAGER_NAME
    hosts = EVERY

    def network(self, backbone: Backbone) -> Network:
        """The backbone itself."""
        return backbone

    def view(self, module: Module) -> Module:
        """The module itself."""
        return module

    def weights_changed(self) -> None:
        """Nothing to do."""


EAGER = EagerEngine()
