"""What engines have in common that run a network by another library: its graph, and its weights."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from ldm.engine import graph
from ldm.engine.disk_cache import kept
from ldm.engine.memory import lack_of_memory
from ldm.engine.sessions import Inputs, Session, SessionEngine

_SHARE = 0.7
"""Of the free memory that the library's copy of the weights may take."""


class ConvertedEngine(SessionEngine):
    """Runs a network as a graph by another library, which is given the weights at the first call.

    The graph has no weights in it, so it is kept in the user's cache folder by the network's structure alone: models
    and adapters share it.

    Memory: a second copy of the weights, of each of the last sessions where the library wants shapes known.
    """

    def __init__(self) -> None:
        super().__init__()
        self._graphs: dict[str, bytes] = {}

    @abstractmethod
    def converted(self, content: bytes, weights: graph.Weights, inputs: Inputs) -> Session:
        """A session for calls like this one.

        Args:
            content: the graph, see `ldm.engine.graph.export`.
            weights: by name, in the graph's order, in the network's type.
            inputs: of this call, in the graph's type.
        """

    def lack(self, weights: list[Tensor], inputs: Inputs) -> str:
        """See `SessionEngine`: a session holds the weights a second time."""
        lack = lack_of_memory(sum(weight.nbytes for weight in weights), _SHARE)
        return f"lacks memory ({lack})" if lack else ""

    def session(self, network: nn.Module, inputs: Inputs) -> Session:
        """See `SessionEngine`."""
        key = graph.structure(network, inputs)
        if key not in self._graphs:
            make: Callable[[], bytes] = lambda: graph.export(network, inputs)  # noqa: E731
            self._graphs[key] = kept(f"{key}.onnx", graph.versions(), make)
        return self.converted(self._graphs[key], graph.weights_of(network), inputs)


def arrays(inputs: Inputs, names: Iterable[str]) -> dict[str, Any]:
    """Those inputs that a graph has, as NumPy arrays, which share their memory where it is the CPU's."""
    return {name: inputs[name].cpu().numpy() for name in names}
