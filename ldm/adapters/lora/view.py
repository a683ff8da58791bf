"""Networks that have some weights of their own and share all others."""

import copy
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def with_weights(network: Module, weights: Mapping[nn.Module, Mapping[str, Tensor]]) -> Module:
    """The network with other weights in some layers, as a new object; the network itself is left alone.

    Only the layers that change and the modules around them are copied, shallowly: every other parameter is shared, so
    threads may use the network and any number of such views of it at the same time.

    Args:
        network: whose layers may change.
        weights: by module and name; modules that are not the network's are passed over.

    Returns:
        The network itself where nothing changes.
    """
    children = {name: child and with_weights(child, weights) for name, child in network._modules.items()}
    if network not in weights and all(child is network._modules[name] for name, child in children.items()):
        return network
    view = copy.copy(network)
    view._modules = children
    if network in weights:
        own = {name: nn.Parameter(value, requires_grad=False) for name, value in weights[network].items()}
        view._parameters = {**network._parameters, **own}
    return view
