"""The engine of ONNX Runtime, for CPUs and CUDA."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from conditioning.bundle import Conditioning
from ldm.engine.converted import ConvertedEngine, arrays
from ldm.engine.graph import OUTPUT, Weights
from ldm.engine.names import ONNX
from ldm.engine.packages import require_packages
from ldm.engine.sessions import Inputs, Session

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_DTYPES = {"cpu": (torch.float32,), "cuda": (torch.float32, torch.float16)}
_ERRORS_ONLY = 3


class OnnxEngine(ConvertedEngine):
    """Runs a network by ONNX Runtime, which takes inputs of any shape.

    Raises:
        ValueError: ONNX Runtime is not installed.
    """

    name = ONNX

    def __init__(self) -> None:
        super().__init__()
        require_packages(ONNX, "onnxruntime", "onnx")

    def refusal(self, x: Tensor, conditioning: Conditioning) -> str:
        """See `ConvertedEngine`."""
        from onnxruntime import get_available_providers

        if _PROVIDERS.get(x.device.type) not in get_available_providers():
            return f"does not run on {x.device}: the installed ONNX Runtime has {', '.join(get_available_providers())}"
        if x.dtype not in _DTYPES[x.device.type]:
            return f"does not compute in {str(x.dtype).removeprefix('torch.')} on {x.device}"
        return ""

    def input_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """See `ConvertedEngine`."""
        return dtype

    def sessions_key(self, inputs: Inputs) -> Hashable:
        """See `ConvertedEngine`."""
        return torch.get_num_threads()

    def converted(self, content: bytes, weights: Weights, inputs: Inputs) -> Session:
        """See `ConvertedEngine`."""
        import onnx
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = _ERRORS_ONLY
        model = onnx.load_from_string(content)
        taken = {each.name for each in model.graph.input}
        weights = [(name, weight) for name, weight in weights if name in taken]
        held = {name: weight.detach().cpu().contiguous().numpy() for name, weight in weights}
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in held.values()]
        options.add_external_initializers(list(held), values)
        place = weights[0][1].device
        provider = _PROVIDERS[place.type]
        providers = [(provider, {"device_id": place.index or 0}) if place.type == "cuda" else provider]
        session = onnxruntime.InferenceSession(_with_constants(model, weights), options, providers=providers)
        names = [each.name for each in session.get_inputs()]
        return _Session(session, names, [held, values])


@dataclass(frozen=True)
class _Session:
    """A session of ONNX Runtime, and the weights in whose memory it reads."""

    session: Any
    names: list[str]
    weights: list[Any]

    def __call__(self, inputs: Inputs) -> Tensor:
        (output,) = self.session.run([OUTPUT], arrays(inputs, self.names))
        return torch.from_numpy(output)


def _with_constants(model: Any, weights: Weights) -> bytes:
    """The graph with its weights as constants that come from elsewhere, in place of inputs."""
    import onnx

    inputs = {each.name: each for each in model.graph.input}
    for name, weight in weights:
        model.graph.input.remove(inputs[name])
        constant = onnx.TensorProto(
            name=name,
            dims=weight.shape,
            data_type=inputs[name].type.tensor_type.elem_type,
            data_location=onnx.TensorProto.EXTERNAL,
        )
        place = {"location": "memory", "offset": "0", "length": str(weight.nbytes)}
        constant.external_data.extend(onnx.StringStringEntryProto(key=key, value=value) for key, value in place.items())
        model.graph.initializer.append(constant)
    whole: bytes = model.SerializeToString()
    return whole
