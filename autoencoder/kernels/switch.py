"""The switch that decides whether layers use the CPU kernels of this package or PyTorch's own."""

import torch
from torch import Tensor

_enabled = True


class cpu_kernels:
    """Turn the CPU kernels of all layers in this process on or off.

    Called as a function it holds from now on; as a context manager the state from before comes back at the end. The
    kernels are off by themselves while a graph is compiled, traced or exported, whatever is set here.

    Args:
        enabled: False computes everything with PyTorch's own operators, as a GPU does.
    """

    def __init__(self, enabled: bool) -> None:
        global _enabled
        self._before, _enabled = _enabled, enabled

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        global _enabled
        _enabled = self._before


def uses_kernels(x: Tensor) -> bool:
    """Whether a layer that is given x computes it with a kernel of this package."""
    if torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch.jit.is_tracing():
        return False
    return _enabled and x.device.type == "cpu"
