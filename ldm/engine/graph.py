"""Networks as ONNX graphs without weights, for the engines that run other libraries."""

import dataclasses
import hashlib
import threading
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import autoencoder
import ldm.networks
from autoencoder.views import shallow_copy
from conditioning.bundle import Conditioning
from ldm.networks.attention import AttentionLayer, scaled_dot_product
from ldm.networks.options import NetworkOptions

FIELDS = tuple(field.name for field in dataclasses.fields(Conditioning))
OUTPUT = "output"
_OPSET = 18
_INPUTS = ("x", "time")
_SIZES = {"batch": 2, "height": 16, "width": 24, "words": 7}  # of the example that is traced; any will do
_DYNAMIC = {
    "x": {0: "batch", 2: "height", 3: "width"},
    "time": {0: "batch"},
    "tokens": {0: "batch", 1: "words"},
    "pooled": {0: "batch"},
    "concat": {0: "batch", 2: "height", 3: "width"},
    "labels": {0: "batch"},
    "mask": {0: "batch", 1: "words"},
    "sizes": {0: "batch"},
    OUTPUT: {0: "batch", 2: "height", 3: "width"},
}
_exporting = threading.Lock()  # PyTorch's exporter keeps its state in globals

Weights = list[tuple[str, Tensor]]
"""Parameters and buffers by name, in the order of a graph's last inputs."""


def weights_of(network: nn.Module) -> Weights:
    """All that a graph of the network is given as weights."""
    return [
        (f"{name}.{own}".lstrip("."), tensor) for name, layer in _layers(network) for own, tensor in _tensors(layer)
    ]


def weight_places(network: nn.Module) -> list[tuple[dict[str, Any], str]]:
    """Where the tensors of `weights_of` are looked up: layers keep their dictionary when one of them is replaced."""
    return [
        (held, own)
        for _, layer in _layers(network)
        for held in (layer._parameters, layer._buffers)
        for own, tensor in held.items()
        if tensor is not None
    ]


def structure(network: nn.Module, inputs: Mapping[str, Tensor]) -> str:
    """A name for all that decides the graph: layers, their settings, shapes of the weights, kinds of inputs."""
    lines = [f"{name} {value.dtype} {value.dim()}" for name, value in inputs.items()]
    for name, layer in _layers(network):
        kind = f"{type(layer).__module__}.{type(layer).__qualname__}({layer.extra_repr()})"
        settings = [f"{key}={value!r}" for key, value in sorted(vars(layer).items()) if _is_setting(key, value)]
        shapes = [f"{own}:{tuple(tensor.shape)}" for own, tensor in _tensors(layer)]
        lines.append(" ".join((name, kind, *settings, *shapes)))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


@cache
def versions() -> str:
    """Of what makes a graph of a network: PyTorch, and the code of the networks and of this module."""
    digest = hashlib.sha256(f"{torch.__version__} {_OPSET}".encode())
    folders = (Path(package.__path__[0]) for package in (ldm.networks, autoencoder))
    for path in (Path(__file__), *(path for folder in folders for path in sorted(folder.rglob("*.py")))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


@torch.inference_mode(False)
@torch.no_grad()
def export(network: nn.Module, inputs: Mapping[str, Tensor]) -> bytes:
    """The network as ONNX, its weights being inputs: one graph for every model and adapter of the same structure.

    Batch, height, width and number of words are free. Attention is plain, whatever the backend of the layers.

    Args:
        network: a `Backbone`, in inference.
        inputs: `x`, `time` and fields of the conditioning by name; only their kinds count. The type of x is the
            graph's.
    """
    step = _Step(network, [name for name in inputs if name in FIELDS])
    dtype, weights = inputs["x"].dtype, weights_of(network)
    # Of one number each: tracing needs shapes alone, and networks may be larger than half of the memory.
    shapes = [torch.zeros((), dtype=_in_graph(tensor, dtype)).expand(tensor.shape) for _, tensor in weights]
    file: Any = BytesIO()  # which PyTorch's annotation leaves out
    with _exporting, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shapes that are read while tracing, and of the exporter's age
        torch.onnx.export(
            step,
            (*(_example(name, value) for name, value in inputs.items()), *shapes),
            file,
            dynamo=False,  # the other exporter takes sizes that can be halved for sizes that must be
            input_names=[*inputs, *(name for name, _ in weights)],
            output_names=[OUTPUT],
            opset_version=_OPSET,
            do_constant_folding=False,
            dynamic_axes={name: axes for name, axes in _DYNAMIC.items() if name in (*inputs, OUTPUT)},
        )
    return file.getvalue()


def _example(name: str, value: Tensor) -> Tensor:
    shape = list(value.shape)
    for axis, kind in _DYNAMIC[name].items():
        shape[axis] = _SIZES[kind]
    return torch.ones(shape, dtype=value.dtype)


def _in_graph(weight: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if weight.is_floating_point() else weight.dtype


class _Step(nn.Module):
    """A network whose layers have no weights of their own: they come with the other inputs."""

    def __init__(self, network: nn.Module, fields: Sequence[str]) -> None:
        super().__init__()
        self._fields = fields
        self._places: list[tuple[dict[str, Any], str]] = []
        self._run = [self._hollow(network)]  # in a list, so that it is no layer of this one
        assert len(self._places) == len(weights_of(network))

    def forward(self, *inputs: Tensor) -> Tensor:
        """inputs: x, time, fields of the conditioning, weights."""
        first = len(_INPUTS) + len(self._fields)
        for (attributes, name), weight in zip(self._places, inputs[first:], strict=True):
            attributes[name] = weight
        fields = dict.fromkeys(FIELDS) | dict(zip(self._fields, inputs[len(_INPUTS) : first], strict=True))
        # No `Conditioning`, whose check compares sizes, which are tensors while tracing.
        out: Tensor = self._run[0](
            *inputs[: len(_INPUTS)], types.SimpleNamespace(**fields), NetworkOptions(hook=_plain)
        )
        return out

    def _hollow(self, layer: nn.Module) -> nn.Module:
        view = shallow_copy(layer)
        for kind in ("_parameters", "_buffers"):
            held = getattr(layer, kind)
            setattr(view, kind, {name: None for name, tensor in held.items() if tensor is None})
        self._places += [(vars(view), name) for name, _ in _tensors(layer)]
        view._modules = {name: child and self._hollow(child) for name, child in layer._modules.items()}
        return view


def _plain(layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return scaled_dot_product(q, k, v, mask)


def _layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Depth first, as `_Step` hollows them; a layer in two places is there twice."""
    return network.named_modules(remove_duplicate=False)


def _tensors(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for held in (layer._parameters, layer._buffers):
        yield from ((name, tensor) for name, tensor in held.items() if tensor is not None)


def _is_setting(key: str, value: object) -> bool:
    if key == "backend":  # the graph has its own
        return False
    return isinstance(value, bool | int | float | str | tuple) or dataclasses.is_dataclass(value)
