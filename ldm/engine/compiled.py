"""torch.compile, block by block, for training and inference."""

import logging
import os
import shutil
from collections.abc import Iterable
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from autoencoder.views import Module
from conditioning.bundle import Conditioning
from ldm.engine.disk_cache import cache_folder
from ldm.engine.names import COMPILED
from ldm.networks.network import Backbone, Network
from ldm.networks.options import PLAIN, NetworkOptions

_log = logging.getLogger(__name__)
_SHAPES = 64  # forms of one block that are compiled before the rest runs as written; SDXL's U-Net has 20


class CompiledEngine:
    """Runs a network whose repeated blocks are compiled at their first call.

    The blocks are compiled in place, so every user of the network shares them. Compiled code reads the weights where
    they are: changed ones need no new compilation. It is kept in the user's cache folder, by shapes, versions and
    instructions of the CPU, so that a later process only reads it. Where compiling fails, one line is logged, and the
    network runs as it is written.

    Raises:
        ValueError: there is no C++ compiler.
    """

    name = COMPILED
    hosts = frozenset({"residuals", "reuse"})

    def __init__(self) -> None:
        require_compiler("the compiled engine")
        self._networks: WeakKeyDictionary[Backbone, Network] = WeakKeyDictionary()

    def network(self, backbone: Backbone) -> Network:
        """The backbone, compiled once."""
        if backbone not in self._networks:
            compile_blocks(backbone.repeated_blocks)
            self._networks[backbone] = _or_as_written(backbone)
        return self._networks[backbone]

    def view(self, module: Module) -> Module:
        """The module itself."""
        return module

    def weights_changed(self) -> None:
        """Nothing to do."""


def _or_as_written(backbone: Backbone) -> Network:
    """The backbone, and without its compiled blocks from the first failure to compile one on."""
    weak = ref(backbone)  # the function is kept for as long as the backbone is

    def run(
        x: Tensor, time: Tensor, conditioning: Conditioning | None = None, options: NetworkOptions = PLAIN
    ) -> Tensor:
        network = weak()
        assert network is not None, "the network of this function is gone"
        try:
            return network(x, time, conditioning, options)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).split())
            _log.warning("the compiled engine failed (%.150s); using eager", reason)
            for block in network.repeated_blocks:
                vars(block).pop("forward", None)
            return network(x, time, conditioning, options)

    return run


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compile the forward passes of `blocks` in place; names of parameters and buffers stay as they are."""
    _compile_for_the_instructions_in_use()
    _keep_compiled_code()
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


def _keep_compiled_code() -> None:
    """Let compiled code outlive this process and the next start of the machine; a folder of the environment stays."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
