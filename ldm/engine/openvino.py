"""The engine of Intel's OpenVINO, for CPUs."""

import logging
import os
import threading
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from conditioning.bundle import Conditioning
from ldm.engine.converted import ConvertedEngine, arrays
from ldm.engine.graph import Weights
from ldm.engine.names import OPENVINO
from ldm.engine.packages import require_packages
from ldm.engine.sessions import Inputs, Session

_log = logging.getLogger(__name__)
_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}
"""By default OpenVINO computes in bf16 wherever it is fast."""


@cache
def core() -> Any:
    """The one `Core` of this process, which is never given back.

    Each sets a stack for signals (`sigaltstack`) on the thread that it begins in, and puts back the one before where it
    ends. Of several, one that another had freed may be put back, and the next Ctrl-C ends the process by SIGSEGV.
    """
    import openvino

    return openvino.Core()


class OpenVinoEngine(ConvertedEngine):
    """Runs a network by OpenVINO, compiled for each shape of its inputs, which makes steps a quarter faster.

    Raises:
        ValueError: OpenVINO is not installed, or would crash.
    """

    name = OPENVINO

    def __init__(self) -> None:
        super().__init__()
        require_packages(OPENVINO, "openvino", "onnx")
        if limits := [name for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA") if name in os.environ]:
            raise ValueError(f"the openvino engine crashes where {limits[0]} is set (seen in 2026.4); unset it")
        self._core = core()

    def refusal(self, x: Tensor, conditioning: Conditioning) -> str:
        """See `ConvertedEngine`."""
        if x.device.type != "cpu":
            return f"runs on CPUs, and this network is on {x.device}"
        if x.dtype not in self.dtypes:
            return f"does not compute in {str(x.dtype).removeprefix('torch.')} on this CPU"
        if x.dtype is torch.bfloat16 and conditioning.sizes is not None:  # up to 1024 radians
            return "rounds the angles of a picture's size to bfloat16 (SDXL), which takes float32"
        return ""

    @property
    def dtypes(self) -> list[torch.dtype]:
        """What it computes in here."""
        native = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return [dtype for dtype in _HINTS if dtype is torch.float32 or "BF16" in native]

    def input_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """See `ConvertedEngine`: OpenVINO lowers an fp32 graph by itself."""
        return torch.float32

    def sessions_key(self, inputs: Inputs) -> Hashable:
        """See `ConvertedEngine`: shapes, because a step of unknown ones takes a quarter longer, and threads."""
        return *(tuple(value.shape) for value in inputs.values()), torch.get_num_threads()

    def converted(self, content: bytes, weights: Weights, inputs: Inputs) -> Session:
        """See `ConvertedEngine`."""
        model = self._core.read_model(model=content)
        held = {name: weight.detach().contiguous() for name, weight in weights}
        names = []
        for parameter in model.get_parameters():
            name = parameter.get_friendly_name()
            if name in inputs:
                names.append(name)
            else:
                parameter.output(0).replace(_constant(held[name]))
                model.remove_parameter(parameter)
        model.reshape({name: list(inputs[name].shape) for name in names})
        _log.info("OpenVINO compiles a step of shape %s", " x ".join(map(str, inputs["x"].shape)))
        hints = {
            "INFERENCE_PRECISION_HINT": _HINTS[weights[0][1].dtype],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # PyTorch's threads run between the steps
        }
        request = self._core.compile_model(model, "CPU", hints).create_infer_request()
        return _Session(request, names, list(held.values()))


@dataclass(frozen=True)
class _Session:
    """A request of OpenVINO, which is of one thread at a time, and the weights in whose memory it reads."""

    request: Any
    names: list[str]
    weights: list[Tensor]
    running: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, inputs: Inputs) -> Tensor:
        with self.running:
            return torch.from_numpy(self.request.infer(arrays(inputs, self.names), share_inputs=True)[0])


def _constant(weight: Tensor) -> Any:
    """The output of a constant in fp32 that reads the weight's own memory."""
    import openvino
    from openvino import opset13

    if weight.dtype is torch.bfloat16:  # NumPy has no such type
        shared = openvino.Tensor(weight.view(torch.int16).numpy(), list(weight.shape), openvino.Type.bf16)
        return opset13.convert(openvino.op.Constant(shared, shared_memory=True), "f32").output(0)
    return opset13.constant(weight.numpy(), shared_memory=True).output(0)
