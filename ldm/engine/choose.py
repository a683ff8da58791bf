"""Engines by name, and the best one for a device."""

import logging
import platform
from collections.abc import Callable, Mapping

import torch

from ldm.engine.compiled import CompiledEngine
from ldm.engine.cudagraphs import CudaGraphsEngine
from ldm.engine.eager import EAGER
from ldm.engine.engine import Engine
from ldm.engine.names import AUTO, COMPILED, CUDAGRAPHS, EAGER_NAME, ENGINES, ONNX, OPENVINO, PACKED
from ldm.engine.onednn import packed_dtypes
from ldm.engine.onnx import OnnxEngine
from ldm.engine.openvino import OpenVinoEngine
from ldm.engine.packed import PackedEngine
from ldm.naming import look_up

_log = logging.getLogger(__name__)
_MEASURED = ("x86_64", "amd64")
"""Processors on which packed weights were found to win."""

_ENGINES: Mapping[str, Callable[[], Engine]] = {
    EAGER_NAME: lambda: EAGER,
    PACKED: PackedEngine,
    COMPILED: CompiledEngine,
    CUDAGRAPHS: CudaGraphsEngine,
    OPENVINO: OpenVinoEngine,
    ONNX: OnnxEngine,
}


def engine_for(name: str, device: torch.device) -> Engine:
    """An engine of its own for a model on a device. One that cannot run here logs one line, and eager takes over.

    Args:
        name: one of `ENGINES`; `auto` is the fastest that changes pictures by rounding only.
        device: of the model.

    Raises:
        ValueError: an unknown name, with the nearest known one.
    """
    look_up("engine", name, dict.fromkeys(ENGINES))
    if name == AUTO:
        name = best_engine(device)
    try:
        return _ENGINES[name]()
    except ValueError as failure:
        _log.warning("%s; using eager", failure)
        return EAGER


def engine_failure(name: str) -> str:
    """Why an engine cannot run here, in one line; empty where it can."""
    try:
        _ENGINES[name]()
    except ValueError as error:
        return str(error)
    return ""


def best_engine(device: torch.device) -> str:
    """The name of what `auto` is on a device."""
    packs = device.type == "cpu" and platform.machine().lower() in _MEASURED and packed_dtypes()
    return PACKED if packs else EAGER_NAME
