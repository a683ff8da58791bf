"""Networks that have some layers of their own and share all others."""

import copy
from collections.abc import Mapping
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def with_layers(network: Module, layers: Mapping[nn.Module, nn.Module]) -> Module:
    """The network with other layers in place of some, as a new object; the network itself is left alone.

    Only the modules around them are copied, shallowly: every other layer and all parameters are shared, so threads may
    use the network and any number of such views of it at the same time.

    Args:
        network: whose layers are replaced.
        layers: by the layer that they take the place of; layers that are not the network's are passed over.

    Returns:
        The network itself where nothing is replaced.
    """
    children = {name: child and _replaced(child, layers) for name, child in network._modules.items()}
    if all(child is network._modules[name] for name, child in children.items()):
        return network
    view = shallow_copy(network)
    view._modules = children
    return view


def shallow_copy(layer: Module) -> Module:
    """The same layer as another object, with the same parameters. It runs as its class says: uncompiled."""
    view = copy.copy(layer)
    vars(view).pop("forward", None)  # compilation puts one here, bound to the layer that it is of
    return view


def _replaced(layer: nn.Module, layers: Mapping[nn.Module, nn.Module]) -> nn.Module:
    return layers[layer] if layer in layers else with_layers(layer, layers)
