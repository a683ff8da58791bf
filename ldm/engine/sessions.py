"""What engines have in common that prepare each kind of call: when anew, when not at all, and what they cannot do."""

import logging
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from autoencoder.views import Module, shallow_copy
from conditioning.bundle import Conditioning
from ldm.engine import graph
from ldm.engine.out_of_memory import is_out_of_memory
from ldm.engine.packed_layers import stamp
from ldm.networks.attention import Attending
from ldm.networks.network import Backbone, Network
from ldm.networks.options import IN_WORDS, PLAIN, NetworkOptions

_log = logging.getLogger(__name__)
_SESSIONS = 4
"""Of one network that are kept: a drawing meets a few shapes."""

Inputs = dict[str, Tensor]
"""x, time, and the fields of the conditioning that are there, as a graph takes them."""
Session = Callable[[Inputs], Tensor]
"""Runs a graph with its weights on inputs of one kind, of which it may pass over some."""


class SessionEngine(ABC):
    """Runs a network by sessions, each of which is prepared with the weights at the first call of its kind.

    Weights that were written to or replaced since are given to new sessions, whether or not `weights_changed` was
    called. Calls that it cannot do (feature caches, gradients), types and devices that it does not know, and everything
    after a failure run eagerly; one line says which and why.
    """

    hosts: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._networks: WeakKeyDictionary[nn.Module, tuple[list[Any], _Sessions]] = WeakKeyDictionary()

    @property
    @abstractmethod
    def name(self) -> str:
        """See `Engine`."""

    @abstractmethod
    def refusal(self, x: Tensor, conditioning: Conditioning) -> str:
        """Why it does not run networks of x's device and type, in words that follow its name; empty if it does."""

    @abstractmethod
    def input_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The type of a session's inputs for a network's type."""

    @abstractmethod
    def sessions_key(self, inputs: Inputs) -> Hashable:
        """What tells the calls of one session from those that need another one."""

    @abstractmethod
    def lack(self, weights: list[Tensor], inputs: Inputs) -> str:
        """Why a session cannot be had with these weights now, in words that follow its name; empty if it can."""

    @abstractmethod
    def session(self, network: nn.Module, inputs: Inputs) -> Session:
        """A session for calls like this one.

        Args:
            network: a `Backbone`.
            inputs: of this call, in the type of `input_dtype`.
        """

    def network(self, backbone: Backbone) -> Network:
        """The backbone by sessions; made anew only after layers of it, or their attention, were replaced."""
        module = cast(nn.Module, backbone)
        layers = layers_of(module)
        with self._changing:
            last = self._networks.get(module)
            if last is None or last[0] != layers:
                self._networks[module] = last = layers, _Sessions(self, shallow_copy(module))
            return last[1]

    def view(self, module: Module) -> Module:
        """The module itself."""
        return module

    def weights_changed(self) -> None:
        """Drop all sessions; the next call prepares one with the weights that are there then."""
        with self._changing:
            for _, sessions in self._networks.values():
                sessions.forget()


def layers_of(backbone: nn.Module) -> list[Any]:
    """What is prepared of a backbone besides weights: its layers, and how they compute attention."""
    layers = list(backbone.modules())[1:]
    return [*layers, *(layer.backend for layer in layers if isinstance(layer, Attending))]


class _Sessions:
    """One network by the sessions of an engine."""

    def __init__(self, engine: SessionEngine, network: nn.Module) -> None:
        self._engine, self._network = engine, network
        self._places = graph.weight_places(network)
        self._making = threading.Lock()
        self._sessions: OrderedDict[Hashable, Session] = OrderedDict()
        self._weights: tuple[Hashable, list[Tensor]] = (), []  # held, so that nothing else gets their memory
        self._failed = False
        self._said: set[str] = set()

    def __call__(
        self,
        x: Tensor,
        time: Tensor,
        conditioning: Conditioning | None = None,
        options: NetworkOptions = PLAIN,
    ) -> Tensor:
        """See `Backbone`."""
        conditioning = conditioning or Conditioning()
        reason = self._refusal(x, options) or self._engine.refusal(x, conditioning)
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
        out: Tensor = self._network(x, time, conditioning, options)
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

    def _refusal(self, x: Tensor, options: NetworkOptions) -> str:
        for name in options.given:
            return f"takes no {IN_WORDS[name]}"
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
        dtype = self._engine.input_dtype(x.dtype)
        kinds = {"time": torch.float32, "sizes": torch.float32, "labels": torch.int64, "mask": torch.bool}
        return {name: value.detach().to(kinds.get(name, dtype)).contiguous() for name, value in given.items()}

    def _session(self, inputs: Inputs) -> Session | None:
        """The session for such inputs, made if need be; None where it cannot be had."""
        weights = self._current_weights()
        stamps = tuple(map(stamp, weights))
        kind = tuple(inputs), self._engine.sessions_key(inputs)
        with self._making:
            if self._weights[0] != stamps:
                self._sessions.clear()
                self._weights = stamps, weights
            if kind not in self._sessions:
                if not self._make_room(weights, inputs):
                    return None
                self._sessions[kind] = self._engine.session(self._network, inputs)
            self._sessions.move_to_end(kind)
            return self._sessions[kind]

    def _make_room(self, weights: list[Tensor], inputs: Inputs) -> bool:
        """Whether another session can be had, if need be in place of earlier ones."""
        while len(self._sessions) >= _SESSIONS:
            self._sessions.popitem(last=False)
        while (lack := self._engine.lack(weights, inputs)) and self._sessions:
            self._sessions.popitem(last=False)
        self._say(lack)
        return not lack
