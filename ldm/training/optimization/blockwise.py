"""The repeated blocks of a network: the units of gradient checkpointing, of compilation and of sharding."""

import shutil
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from autoencoder import blocks as autoencoder_blocks
from ldm.networks.unet.blocks import ResnetBlock, TransformerBlock
from ldm.networks.upscaler.model import ResidualBlock
from ldm.training.config import LoopConfig

_BLOCKS = (ResnetBlock, TransformerBlock, autoencoder_blocks.ResnetBlock, autoencoder_blocks.Attention, ResidualBlock)
_SHAPES = 64  # forms of one block that are compiled before the rest runs as written; SDXL's U-Net has 20


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks inside `module` in the order in which they are built; none of them holds another one."""
    return [part for part in module.modules() if isinstance(part, _BLOCKS)]


def prepare_blocks(name: str, module: nn.Module, config: LoopConfig) -> None:
    """Compile and checkpoint the blocks of the module `name` in place, as `config` asks.

    Names of parameters and buffers stay as they are. Checkpointing is around the compiled code, so a block's
    intermediate results are computed again in the backward pass by the same code (Chen et al. 2016, arXiv:1604.06174).

    Raises:
        ValueError: there is no block in the network, or compiling is asked for where there is no C++ compiler.
    """
    requested = [field for field in ("gradient_checkpointing", "compile") if getattr(config, field)]
    if requested and not repeated_blocks(module):
        raise ValueError(
            f"loop.{requested[0]}=true works block by block, and {name} has no such blocks; set it to false"
        )
    if config.compile:
        require_compiler()
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _SHAPES)
    for block in repeated_blocks(module):
        if config.compile:
            block.forward = torch.compile(block.forward, dynamic=False)  # type: ignore[method-assign]
        if config.gradient_checkpointing:
            # No block draws random numbers, so there is no state of them to keep.
            again = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
            block.forward = again  # type: ignore[method-assign]


def require_compiler() -> None:
    """Raise ValueError where `torch.compile` would fail for want of the tools that it calls."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        found = shutil.which(get_cpp_compiler())
    except InvalidCxxCompiler:
        found = None
    if found is None:
        raise ValueError("loop.compile=true needs a C++ compiler, e.g. g++; install one, or set it to false")
