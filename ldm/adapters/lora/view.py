"""Networks that have some weights of their own and share all others."""

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

from autoencoder.views import shallow_copy, with_layers

Module = TypeVar("Module", bound=nn.Module)


def with_weights(network: Module, weights: Mapping[nn.Module, Mapping[str, Tensor]]) -> Module:
    """The network with other weights in some layers, as a new object, see `with_layers`.

    Args:
        network: whose layers may change.
        weights: by layer and name; layers that are not the network's are passed over.

    Returns:
        The network itself where nothing changes.
    """
    return with_layers(network, {layer: _with_own(layer, values) for layer, values in weights.items()})


def _with_own(layer: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    view = shallow_copy(layer)
    own = {name: nn.Parameter(value, requires_grad=False) for name, value in weights.items()}
    view._parameters = {**layer._parameters, **own}
    return view
