"""CUDA graphs: all kernels of a step are recorded once for its shapes, and started by one call from then on."""

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from conditioning.bundle import Conditioning
from ldm.engine.graph import FIELDS
from ldm.engine.names import CUDAGRAPHS
from ldm.engine.sessions import Inputs, Session, SessionEngine
from ldm.networks.network import Network

_DEVICE = "cuda"
_WARM_UP = 3
"""Steps before the recording, in which libraries choose their kernels; as PyTorch's own `make_graphed_callables`."""

_one_at_a_time = threading.Lock()  # PyTorch records one graph at a time, and graphs that share memory must not overlap


class CudaGraphsEngine(SessionEngine):
    """Runs a network by CUDA graphs, one for the shapes and types of a call; the last few are kept.

    A graph reads its inputs and the weights where they were when it was recorded. So inputs are copied to places of
    their own, the output is copied out, and a graph is dropped when a weight was written to, replaced or moved.

    Memory: the maps of the largest recorded step, which all graphs share, beside what PyTorch keeps.

    Raises:
        ValueError: there is no CUDA GPU.
    """

    name = CUDAGRAPHS

    def __init__(self) -> None:
        super().__init__()
        if not torch.cuda.is_available():
            raise ValueError(f"the {CUDAGRAPHS} engine needs a CUDA GPU, and there is none here")
        self._shared: dict[torch.device, tuple[Any, torch.cuda.Stream]] = {}

    def refusal(self, x: Tensor, conditioning: Conditioning) -> str:
        """See `SessionEngine`."""
        return "" if x.device.type == _DEVICE else f"runs on CUDA GPUs, and this network is on {x.device}"

    def input_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """See `SessionEngine`."""
        return dtype

    def sessions_key(self, inputs: Inputs) -> Hashable:
        """See `SessionEngine`: shapes, types and the device."""
        return tuple((value.shape, value.dtype, value.device) for value in inputs.values())

    def lack(self, weights: list[Tensor], inputs: Inputs) -> str:
        """See `SessionEngine`: weights that come and go (`make_room`) are no place to read from."""
        here = inputs["x"].device
        away = next((weight.device for weight in weights if weight.device != here), None)
        return "" if away is None else f"needs all weights on {here} ({away} has some)"

    @torch.inference_mode(False)
    @torch.no_grad()
    def session(self, network: nn.Module, inputs: Inputs) -> Session:
        """See `SessionEngine`."""
        places = {name: value.clone() for name, value in inputs.items()}
        conditioning = Conditioning(**{name: place for name, place in places.items() if name in FIELDS})

        def step() -> Tensor:
            return cast(Network, network)(places["x"], places["time"], conditioning)

        device = inputs["x"].device
        with _one_at_a_time:
            replay, output = record(step, device, self._shared)
        return _Session(replay, places, output)


@dataclass(frozen=True)
class _Session:
    """A recorded step, and where it reads and writes."""

    replay: Callable[[], object]
    places: Inputs
    output: Tensor

    def __call__(self, inputs: Inputs) -> Tensor:
        with _one_at_a_time:
            for name, place in self.places.items():
                place.copy_(inputs[name])
            self.replay()
            return self.output.clone()


def record(
    step: Callable[[], Tensor], device: torch.device, shared: dict[torch.device, tuple[Any, torch.cuda.Stream]]
) -> tuple[Callable[[], object], Tensor]:
    """Record what a function starts on a GPU.

    Args:
        step: reads and writes the same memory at each call, and never waits for the GPU.
        device: the GPU.
        shared: the memory of all recordings of a device, and the stream that they are made on.

    Returns:
        What does it all again, and the tensor that then has the result.
    """
    with torch.cuda.device(device):
        if device not in shared:
            shared[device] = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        pool, aside = shared[device]
        graph, outside = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        aside.wait_stream(outside)
        with torch.cuda.stream(aside):  # which leaves the stream also where a failed recording does not
            for _ in range(_WARM_UP):
                step()
            try:
                with torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"):
                    output = step()
            except RuntimeError as error:  # leaving a recording that failed raises too; the first one says why
                raise error.__context__ or error from None
        outside.wait_stream(aside)
    return graph.replay, output
