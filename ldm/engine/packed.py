"""The engine for CPUs: weights in the order in which oneDNN reads them, and what is constant computed once."""

import logging
import threading
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from autoencoder.views import Module, shallow_copy, with_layers
from conditioning.bundle import Conditioning
from ldm.engine.memory import lack_of_memory
from ldm.engine.names import PACKED
from ldm.engine.onednn import packed_dtypes
from ldm.engine.packed_layers import KINDS, Kept, PackedConv2d, PackedLinear, as_packed, is_packed
from ldm.engine.sessions import layers_of
from ldm.engine.winograd import most_bytes
from ldm.networks.network import Backbone, Network
from ldm.networks.options import EVERY, PLAIN, NetworkOptions
from ldm.networks.unet.blocks import SpatialTransformer

_log = logging.getLogger(__name__)
_PACKED = {layer for layer, kind in KINDS.items() if kind in (PackedLinear, PackedConv2d)}
_SHARE = 0.7
"""Of the free memory that packed weights may take."""


class _View(NamedTuple):
    """A view of a module, the layers that it was made of, and the function in a backbone's place."""

    layers: list[Any]
    module: nn.Module
    run: Network


class PackedEngine:
    """Runs a network whose layers keep their weights in the order that oneDNN, PyTorch's library for CPUs, reads.

    PyTorch's own layers bring them into that order in every call, or leave the product to MKL. Besides, maps are
    channels_last, keys and values of the words are computed once for a conditioning, and a GEGLU's halves apart; in
    fp32, large 3x3 convolutions are Winograd's, with 16 products for 36.

    The network is a view of the backbone (`autoencoder.views`): it runs the same code and shares all parameters, and
    the backbone is left alone. Autoencoders and text towers have such views too. Weights are packed at the first call.
    Ones that were written to or replaced since are packed again, whether or not `weights_changed` was called. On
    another device than the CPU, in a type that oneDNN lacks here (fp16), and while gradients are on, each layer
    computes as it does in the backbone.

    Memory: a second copy of the weights of all linear layers and convolutions, and of Winograd's 16/9 of them. Where
    the weights are mapped from a file (`from_pretrained(mmap=True)`), the system may drop the first one's pages
    whenever it needs room. Where the second copy would take most of the memory that is free, one line is logged and the
    network runs as it is written.

    Raises:
        ValueError: this PyTorch has no oneDNN.
    """

    name = PACKED
    hosts = EVERY

    def __init__(self) -> None:
        if not packed_dtypes():
            raise ValueError("the packed engine needs oneDNN, which this PyTorch is built without")
        self._changing = threading.Lock()
        self._views: WeakKeyDictionary[nn.Module, _View] = WeakKeyDictionary()
        self._kept: WeakKeyDictionary[nn.Module, Kept] = WeakKeyDictionary()

    def network(self, backbone: Backbone) -> Network:
        """The view of the backbone that packs its weights; made anew only after layers of it were replaced."""
        return self._view_of(cast(nn.Module, backbone)).run

    def view(self, module: Module) -> Module:
        """The module as an object that packs its weights, likewise."""
        return cast(Module, self._view_of(module).module)

    def weights_changed(self) -> None:
        """Drop packed weights; the next call packs what is there then."""
        with self._changing:
            for kept in self._kept.values():
                kept.forget()

    def _view_of(self, module: nn.Module) -> _View:
        layers = layers_of(module)
        with self._changing:
            last = self._views.get(module)
            if last is None or last.layers != layers:
                self._views[module] = last = self._fitting(module, layers)
            return last

    def _fitting(self, module: nn.Module, layers: list[Any]) -> _View:
        """A view that packs its weights; one that leaves them where memory does not hold them twice."""
        new = [
            cast(Tensor, layer.weight)
            for layer in module.modules()
            if type(layer) in _PACKED and layer not in self._kept
        ]
        if lack := lack_of_memory(sum(map(most_bytes, new)), _SHARE):
            _log.warning("%s; using eager", lack)
            plain = shallow_copy(module)
            return _View(layers, plain, plain)
        packing = self._packing(module)
        return _View(layers, packing, _channels_last(packing))

    def _packing(self, module: nn.Module) -> nn.Module:
        leaves: dict[nn.Module, type[nn.Module]] = {}
        around: dict[nn.Module, type[nn.Module]] = {}  # layers with such ones inside
        transformers = [each for each in module.modules() if isinstance(each, SpatialTransformer)]
        on_tokens = {layer for each in transformers for layer in (each.proj_in, each.proj_out)}
        for layer in module.modules():
            kind = KINDS.get(type(layer))
            if kind is PackedConv2d and layer in on_tokens:
                kind = PackedLinear
            if kind is not None:
                (around if any(layer.children()) else leaves)[layer] = kind
        packed = {layer: as_packed(kind, layer, self._kept_for(layer)) for layer, kind in leaves.items()}
        for layer, kind in reversed(around.items()):  # those inside of others first
            packed[layer] = as_packed(kind, with_layers(layer, packed), self._kept_for(layer))
        return with_layers(module, packed)

    def _kept_for(self, layer: nn.Module) -> Kept:
        """Where the packed weights of a layer are, which views of several backbones may share."""
        return self._kept.setdefault(layer, Kept())


def _channels_last(network: nn.Module) -> Network:
    def run(
        x: Tensor,
        time: Tensor,
        conditioning: Conditioning | None = None,
        options: NetworkOptions = PLAIN,
    ) -> Tensor:
        if is_packed(x):
            x = x.contiguous(memory_format=torch.channels_last)
        out: Tensor = network(x, time, conditioning, options)
        return out.contiguous()

    return run
