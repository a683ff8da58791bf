"""The repeated blocks of a network: the units of gradient checkpointing, of compilation and of sharding."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from ldm.engine.compiled import compile_blocks, require_compiler
from ldm.networks.attention import set_attention
from ldm.training.config import LoopConfig


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks of all networks inside `module`, which say themselves what they are; none holds another one."""
    own = getattr(module, "repeated_blocks", None)
    if own is not None:
        return list(own)
    return [block for child in module.children() for block in repeated_blocks(child)]


def prepare_blocks(name: str, module: nn.Module, config: LoopConfig) -> None:
    """Compile and checkpoint the blocks of the module `name` in place and choose their attention, as `config` says.

    Names of parameters and buffers stay as they are. Checkpointing is around the compiled code, so a block's
    intermediate results are computed again in the backward pass by the same code (Chen et al. 2016, arXiv:1604.06174).

    Raises:
        ValueError: there is no block in the network, or compiling is requested where there is no C++ compiler.
    """
    set_attention(module, config.attention)
    requested = [field for field in ("gradient_checkpointing", "compile") if getattr(config, field)]
    if requested and not repeated_blocks(module):
        raise ValueError(
            f"loop.{requested[0]}=true works block by block, and {name} has no such blocks; set it to false"
        )
    if config.compile:
        require_compiler("loop.compile=true")
        compile_blocks(repeated_blocks(module))
    if config.gradient_checkpointing:
        for block in repeated_blocks(module):
            # No block draws random numbers, so there is no state of them to keep.
            again = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
            block.forward = again  # type: ignore[method-assign]
