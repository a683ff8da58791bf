"""Networks whose weights wait in the computer's memory and are on a GPU only while they are used."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakSet, ref

import torch
from torch import Tensor, nn

from ldm.engine.names import EAGER_NAME, GROUP, MODEL, NONE, OFFLOADS, SEQUENTIAL
from ldm.naming import look_up

_log = logging.getLogger(__name__)
_HOME = torch.device("cpu")


def offload_for(kind: str, device: torch.device) -> str:
    """The offloading that a device has a use for: none on a CPU, where a line says so.

    Raises:
        ValueError: an unknown kind, with the nearest known one.
    """
    look_up("offload", kind, dict.fromkeys(OFFLOADS))
    if kind != NONE and device.type == "cpu":
        _log.warning("offload=%r is for GPUs; on a CPU all weights are in its memory, so nothing is moved", kind)
        return NONE
    return kind


def engine_name_for(engine: str, automatic: str, kind: str) -> str:
    """The name of the engine of an offloaded model, whose weights must be where the layers look: eager.

    Args:
        engine: that was requested.
        automatic: the name that leaves the choice open.
        kind: of offloading.
    """
    if kind == NONE:
        return engine
    if engine not in (automatic, EAGER_NAME):
        _log.warning("engine=%r keeps weights where they are, and offload=%r moves them; using eager", engine, kind)
    return EAGER_NAME


class Offload:
    """Moves the weights of a model's networks to a device and away again, by hooks of their layers.

    - `model`: one network at a time is on the device, from its first use until another one is used.
    - `sequential`: the layers of a network's blocks, one at a time. What is outside of blocks stays on the device.
    - `group`: likewise whole blocks, while the next one is on its way, by a CUDA stream of its own.

    The hooks are PyTorch's, which views of a network (adapters for a picture, tiles, patterns) share, unlike those of
    accelerate, which put a function in place of `forward`. An offloaded model draws one picture at a time: threads
    must not share it.

    Args:
        kind: one of `ldm.engine.names.OFFLOADS`.
        device: where networks run.
        networks: all of the model, by name.

    Raises:
        ValueError: an unknown kind.
    """

    def __init__(self, kind: str, device: torch.device, networks: Mapping[str, nn.Module]) -> None:
        self.kind = kind
        self._device, self._networks = device, networks
        self._handles: list[Any] = []
        self.use(kind, device)

    def use(self, kind: str, device: torch.device) -> None:
        """Offload in another way, or to another device; `none` puts everything there.

        Args:
            kind: one of `ldm.engine.names.OFFLOADS`.
            device: where networks run.

        Raises:
            ValueError: an unknown kind.
        """
        look_up("offload", kind, dict.fromkeys(OFFLOADS))
        self.release()
        self.kind, self._device = kind, device
        one_at_a_time = _OneAtATime(device)
        for network in self._networks.values():
            if kind == MODEL:
                network.to(_HOME)
                inner = [each for child in network.children() for each in child.children()]  # may be called alone
                self._hook(one_at_a_time.of(network), network, *network.children(), *inner)
                continue
            network.to(device)
            blocks = repeated_blocks(network)
            if kind in (SEQUENTIAL, GROUP):
                for block in blocks:
                    block.to(_HOME)
            if kind == SEQUENTIAL:
                layers = [layer for block in blocks for layer in block.modules() if layer._parameters]
                self._hook(_Layers(device), *layers)
            elif kind == GROUP:
                mover = _Blocks(device, blocks)
                self._hook(mover, *blocks)
                for called in (network, getattr(network, "encoder", None), getattr(network, "decoder", None)):
                    if called is not None:
                        self._handles.append(called.register_forward_pre_hook(mover.begin))

    def release(self) -> None:
        """Take the hooks out; weights stay where they are."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, mover: "_Mover", *layers: nn.Module) -> None:
        for layer in layers:
            self._handles.append(layer.register_forward_pre_hook(mover.before, with_kwargs=True))
            self._handles.append(layer.register_forward_hook(mover.after, always_call=True))


def repeated_blocks(network: nn.Module) -> list[nn.Module]:
    """The blocks of a network that are most of its weights; none of one that has no such."""
    blocks = getattr(network, "repeated_blocks", ())
    return list(blocks) or [each for part in network.modules() for each in getattr(part, "layers", ())]


class _Mover(Protocol):
    def before(self, layer: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Called before a layer runs; returns its inputs and options."""

    def after(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Called after it, or after its failure."""


class _OneAtATime:
    """The network that is on the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._network: nn.Module | None = None
        self._there: WeakSet[nn.Module] = WeakSet()  # it, parts of it, and views of both

    def of(self, network: nn.Module) -> "_Network":
        return _Network(network, self)

    def bring(self, network: nn.Module, layer: nn.Module) -> None:
        with torch.inference_mode(False), torch.no_grad():
            if self._network is not network:
                for each in self._there:
                    each.to(_HOME)
                self._there.clear()
                self._network = network
            if layer not in self._there:
                layer.to(self._device)
                self._there.add(layer)

    def sent(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What a layer is given, where it runs."""
        return tuple(self._sent(each) for each in inputs), {name: self._sent(each) for name, each in options.items()}

    def _sent(self, given: Any) -> Any:
        return given.to(self._device) if isinstance(given, Tensor) else given


class _Network:
    """The hooks of one network, and of its parts, which may be called alone."""

    def __init__(self, network: nn.Module, place: _OneAtATime) -> None:
        self._network, self._place = network, place

    def before(self, layer: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        self._place.bring(self._network, layer)
        return self._place.sent(inputs, options)

    def after(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """It stays until another one is used."""


class _Layers:
    """Layers that have a copy of their own weights on the device while they run."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._home: dict[nn.Module, list[tuple[nn.Parameter, Tensor]]] = {}

    def before(self, layer: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        home = [(each, each.data) for each in layer._parameters.values() if each is not None]
        self._home[layer] = home
        _put(home, _copies(home, self._device))

    def after(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        _put(home := self._home.pop(layer, []), [weight for _, weight in home])


class _Blocks:
    """Blocks that have a copy of their weights on the device while they run, and the next one gets its own meanwhile.

    Args:
        device: where they run.
        blocks: of a network; weights are pinned, so that a stream of its own can copy them.
    """

    def __init__(self, device: torch.device, blocks: Sequence[nn.Module]) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._next: WeakKeyDictionary[nn.Module, ref[nn.Module]] = WeakKeyDictionary()  # learned from the first pass
        self._last: ref[nn.Module] | None = None
        self._coming: tuple[nn.Module, list[Tensor]] | None = None
        self._home: dict[nn.Module, list[tuple[nn.Parameter, Tensor]]] = {}
        if self._stream is not None:
            for parameter in (each for block in blocks for each in block.parameters()):
                parameter.data = parameter.data.pin_memory()

    def begin(self, network: nn.Module, inputs: tuple[Any, ...]) -> None:
        """A pass begins: weights may have changed since the last one."""
        self._last = self._coming = None

    def before(self, block: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        coming, self._coming = self._coming, None
        self._home[block] = home = _weights(block)
        if coming is not None and coming[0] is block:
            copies = coming[1]
            if self._stream is not None:
                torch.cuda.current_stream(self._device).wait_stream(self._stream)
                for each in copies:
                    each.record_stream(torch.cuda.current_stream(self._device))
        else:
            copies = _copies(home, self._device)
        _put(home, copies)
        last = None if self._last is None else self._last()
        if last is not None:
            self._next[last] = ref(block)
        self._last = ref(block)
        following = self._next[block]() if block in self._next else None
        if following is not None:
            self._fetch(following)

    def after(self, block: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        _put(home := self._home.pop(block, []), [weight for _, weight in home])

    def _fetch(self, block: nn.Module) -> None:
        """Begin to copy a block. A copy that the next block has no use for is dropped."""
        if self._stream is None:
            self._coming = block, _copies(_weights(block), self._device)
            return
        with torch.cuda.stream(self._stream):
            self._coming = block, _copies(_weights(block), self._device)


def _weights(block: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
    return [(each, each.data) for each in block.parameters()]


def _copies(weights: list[tuple[nn.Parameter, Tensor]], device: torch.device) -> list[Tensor]:
    with torch.inference_mode(False), torch.no_grad():
        return [weight.to(device, non_blocking=True, copy=True) for _, weight in weights]


def _put(weights: list[tuple[nn.Parameter, Tensor]], values: list[Tensor]) -> None:
    with torch.inference_mode(False), torch.no_grad():
        for (parameter, _), value in zip(weights, values, strict=True):
            parameter.data = value
