"""torch.compile, block by block, for training and inference."""

import os
import shutil
from collections.abc import Iterable
from weakref import WeakSet

import torch
from torch import nn

from ldm.engine.engine import Network
from ldm.engine.names import COMPILED
from ldm.networks.network import Backbone

_SHAPES = 64  # forms of one block that are compiled before the rest runs as written; SDXL's U-Net has 20


class CompiledEngine:
    """Runs a network whose repeated blocks are compiled at their first call.

    The blocks are compiled in place, so every user of the network shares them. Compiled code reads the weights where
    they are: changed ones need no new compilation.

    Raises:
        ValueError: there is no C++ compiler.
    """

    name = COMPILED
    hosts_hooks = False
    hosts_residuals = True

    def __init__(self) -> None:
        require_compiler("the compiled engine")
        self._compiled: WeakSet[Backbone] = WeakSet()

    def network(self, backbone: Backbone) -> Network:
        """The backbone, compiled once."""
        if backbone not in self._compiled:
            self._compiled.add(backbone)
            compile_blocks(backbone.repeated_blocks)
        return backbone

    def weights_changed(self) -> None:
        """Nothing to do."""


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compile the forward passes of `blocks` in place; names of parameters and buffers stay as they are."""
    _compile_for_the_instructions_in_use()
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _SHAPES)
    for block in blocks:
        if "forward" in vars(block):  # compiled already, for another network that shares it
            continue
        block.forward = torch.compile(block.forward, dynamic=False)


def require_compiler(setting: str) -> None:
    """Raise ValueError, naming the setting, where `torch.compile` would fail for want of the tools that it calls."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        found = shutil.which(get_cpp_compiler())
    except InvalidCxxCompiler:
        found = None
    if found is None:
        raise ValueError(f"{setting} needs a C++ compiler, e.g. g++; install one, or do without it")


def _compile_for_the_instructions_in_use() -> None:
    """Hold the compiler to the vectors that PyTorch computes with, where `ATEN_CPU_CAPABILITY` allows fewer.

    The compiler looks at the processor alone, and code for wider vectors than PyTorch's headers are set to is wrong.
    """
    if "ATEN_CPU_CAPABILITY" in os.environ:
        torch._inductor.config.cpp.simdlen = {"AVX512": 512, "AVX2": 256}.get(
            torch.backends.cpu.get_cpu_capability(), 1
        )
