"""What engines have in common that run a network by another library: its graph, its weights, what they cannot do."""

import logging
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from autoencoder.views import Module, shallow_copy
from conditioning.bundle import Conditioning
from ldm.engine import graph
from ldm.engine.disk_cache import kept
from ldm.engine.engine import Network
from ldm.engine.memory import lack_of_memory
from ldm.engine.out_of_memory import is_out_of_memory
from ldm.engine.packed_layers import stamp
from ldm.networks.attention import AttentionHook
from ldm.networks.network import Backbone, FeatureReuse, Residuals

_log = logging.getLogger(__name__)
_SHARE = 0.7
"""Of the free memory that the library's copy of the weights may take."""
_SESSIONS = 4
"""Of one network that are kept: a drawing meets a few shapes."""

Inputs = dict[str, Tensor]
"""x, time, and the fields of the conditioning that are there, as a graph takes them."""
Session = Callable[[Inputs], Tensor]
"""Runs a graph with its weights on inputs of one kind, of which it may pass over some."""


class ConvertedEngine(ABC):
    """Runs a network as a graph by another library, which is given the weights at the first call.

    The graph has no weights in it, so it is kept in the user's cache folder by the network's structure alone: models
    and adapters share it. Weights that were written to or replaced since are given to the library anew, whether or not
    `weights_changed` was called. Calls that it cannot do (feature caches, gradients), types and devices that it does
    not know, and everything after a failure run eagerly; one line says which and why.

    Memory: a second copy of the weights, of each of the last `_SESSIONS` shapes where the library wants them known.
    """

    hosts_hooks = False
    hosts_residuals = False

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._networks: WeakKeyDictionary[nn.Module, tuple[list[nn.Module], _Converted]] = WeakKeyDictionary()

    @property
    @abstractmethod
    def name(self) -> str:
        """See `Engine`."""

    @abstractmethod
    def refusal(self, x: Tensor, conditioning: Conditioning) -> str:
        """Why it does not run networks of x's device and type, in words that follow its name; empty if it does."""

    @abstractmethod
    def graph_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The type of the graph for a network's type."""

    @abstractmethod
    def sessions_key(self, inputs: Inputs) -> Hashable:
        """What tells the calls of one session from those that need another one."""

    @abstractmethod
    def session(self, content: bytes, weights: graph.Weights, inputs: Inputs) -> Session:
        """A session for calls like this one.

        Args:
            content: the graph, see `ldm.engine.graph.export`.
            weights: by name, in the graph's order, in the network's type.
            inputs: of this call, in the graph's type.
        """

    def network(self, backbone: Backbone) -> Network:
        """The backbone by the library; made anew only after layers of it were replaced."""
        module = cast(nn.Module, backbone)
        layers = list(module.modules())[1:]
        with self._changing:
            last = self._networks.get(module)
            if last is None or last[0] != layers:
                self._networks[module] = last = layers, _Converted(self, shallow_copy(module))
            return last[1]

    def view(self, module: Module) -> Module:
        """The module itself."""
        return module

    def weights_changed(self) -> None:
        """Drop the library's copies of the weights; the next call gives it what is there then."""
        with self._changing:
            for _, converted in self._networks.values():
                converted.forget()


class _Converted:
    """One network by the library of an engine."""

    def __init__(self, engine: ConvertedEngine, network: nn.Module) -> None:
        self._engine, self._network = engine, network
        self._places = graph.weight_places(network)
        self._making = threading.Lock()
        self._sessions: OrderedDict[Hashable, Session] = OrderedDict()
        self._weights: tuple[Hashable, list[Tensor]] = (), []  # held, so that nothing else gets their memory
        self._graphs: dict[str, bytes] = {}
        self._failed = False
        self._said: set[str] = set()

    def __call__(
        self,
        x: Tensor,
        time: Tensor,
        conditioning: Conditioning | None = None,
        residuals: Residuals | None = None,
        hook: AttentionHook | None = None,
        reuse: FeatureReuse | None = None,
    ) -> Tensor:
        """See `Backbone`."""
        conditioning = conditioning or Conditioning()
        reason = self._refusal(x, residuals, hook, reuse) or self._engine.refusal(x, conditioning)
        if not reason and not self._failed:
            inputs = self._inputs(x, time, conditioning)
            try:
                session = self._session(inputs)
                if session is not None:
                    return session(inputs).to(x.device, x.dtype)
            except Exception as error:  # whatever a foreign library raises must not stop a picture
                if is_out_of_memory(error):
                    raise
                reason = f"failed ({' '.join(str(error).split()) or type(error).__name__:.150})"
        out: Tensor = self._network(x, time, conditioning, residuals, hook, reuse)
        self._failed |= reason.startswith("failed")  # only now: where the inputs are at fault, this has raised too
        self._say(reason)
        return out

    def forget(self) -> None:
        """Drop what was made of the weights."""
        with self._making:
            self._sessions.clear()
            self._weights = (), []

    def _current_weights(self) -> list[Tensor]:
        return [held[name] for held, name in self._places]

    def _refusal(self, x: Tensor, residuals: object, hook: object, reuse: object) -> str:
        for name, given in (("residuals", residuals), ("attention hooks", hook), ("feature caches", reuse)):
            if given is not None:
                return f"takes no {name}"
        trained = torch.is_grad_enabled() and any(each.requires_grad for each in (x, *self._current_weights()))
        return "gives no gradients" if trained else ""

    def _say(self, reason: str) -> None:
        kind = reason.partition(" (")[0]  # without numbers, which differ from step to step
        if kind and kind not in self._said:
            self._said.add(kind)
            _log.warning("the %s engine %s; using eager", self._engine.name, reason)

    def _inputs(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> Inputs:
        fields = {name: getattr(conditioning, name) for name in graph.FIELDS}
        given = {"x": x, "time": time.expand(len(x))} | {k: field for k, field in fields.items() if field is not None}
        dtype = self._engine.graph_dtype(x.dtype)
        kinds = {"time": torch.float32, "sizes": torch.float32, "labels": torch.int64, "mask": torch.bool}
        return {name: value.detach().to(kinds.get(name, dtype)).contiguous() for name, value in given.items()}

    def _session(self, inputs: Inputs) -> Session | None:
        """The session for such inputs, made if need be; None where memory does not hold it."""
        weights = self._current_weights()
        stamps = tuple(map(stamp, weights))
        kind = tuple(inputs), self._engine.sessions_key(inputs)
        with self._making:
            if self._weights[0] != stamps:
                self._sessions.clear()
                self._weights = stamps, weights
            if kind not in self._sessions:
                if not self._make_room(weights):
                    return None
                self._sessions[kind] = self._made(inputs)
            self._sessions.move_to_end(kind)
            return self._sessions[kind]

    def _make_room(self, weights: list[Tensor]) -> bool:
        """Whether memory holds another copy of the weights, if need be in place of earlier sessions."""
        needed = sum(weight.nbytes for weight in weights)
        while len(self._sessions) >= _SESSIONS:
            self._sessions.popitem(last=False)
        while (lack := lack_of_memory(needed, _SHARE)) and self._sessions:
            self._sessions.popitem(last=False)
        if lack:
            self._say(f"lacks memory ({lack})")
        return not lack

    def _made(self, inputs: Inputs) -> Session:
        key = graph.structure(self._network, inputs)
        if key not in self._graphs:
            make: Callable[[], bytes] = lambda: graph.export(self._network, inputs)  # noqa: E731
            self._graphs[key] = kept(f"{key}.onnx", graph.versions(), make)
        return self._engine.session(self._graphs[key], graph.weights_of(self._network), inputs)


def arrays(inputs: Inputs, names: Iterable[str]) -> dict[str, Any]:
    """Those inputs that a graph has, as NumPy arrays, which share their memory where it is the CPU's."""
    return {name: inputs[name].cpu().numpy() for name in names}
