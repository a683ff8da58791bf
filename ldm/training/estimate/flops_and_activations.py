"""Counts operations and saved activations of a network's pass, without weights, data or arithmetic.

A network is mostly the same few blocks over and over, so a block is traced once for each of its shapes.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from autoencoder.kernels import cpu_kernels
from ldm.training.optimization.blockwise import repeated_blocks

Pass = Callable[[nn.Module, int, torch.device], Tensor]
"""`(network, samples, device) -> loss ()`, from inputs of the right shapes without meaning."""

_Known = TypeVar("_Known")


@dataclass(frozen=True)
class Arithmetic:
    """Floating-point operations of one sample; a multiplication and an addition are two."""

    forward: int
    backward: int


@dataclass(frozen=True)
class ActivationMemory:
    """Bytes that autograd keeps from the forward for the backward pass.

    Attributes:
        total: of all blocks and what lies between them.
        block: the most of them from within one block.
        checkpointed: of the total, if the blocks are checkpointed: their inputs and what lies between them.
    """

    total: int
    block: int
    checkpointed: int


@dataclass(frozen=True)
class _KeptBlock:
    """A block's own bytes, which of its inputs it keeps beside them, whether its output, and the output itself."""

    own: int
    inputs: list[int]
    keeps_output: bool
    output: Tensor


def saved_activations(
    network: nn.Module, run: Pass, samples: int, dtype: torch.dtype | None, on_gpu: bool
) -> ActivationMemory:
    """Saved activations of one micro-batch; weights do not count, but their copies in another dtype do.

    Every tensor is counted once, as PyTorch's own kernels save them. On a GPU the layers are PyTorch's and features
    lie in the plain layout; on a CPU both are what our layers choose.

    Args:
        network: on the meta device; it is of no more use afterwards.
        run: a pass.
        samples: how many go through at once.
        dtype: of autocast; None computes in fp32.
        on_gpu: which layers' choices are followed.
    """
    if not on_gpu:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with cpu_kernels(not on_gpu), FakeTensorMode(allow_non_fake_inputs=True):
        return _kept(network, run, samples, nullcontext() if dtype is None else torch.autocast("cpu", dtype))


def _kept(network: nn.Module, run: Pass, samples: int, cast: AbstractContextManager[object]) -> ActivationMemory:
    within = {part for block in repeated_blocks(network) for part in block.modules()}
    between = [part.to_empty(device="cpu", recurse=False) for part in network.modules() if part not in within]
    weights = {_place(parameter) for part in between for parameter in part.parameters(recurse=False)}
    plain: dict[int, torch.UntypedStorage] = {}  # storages themselves, or their numbers would be given away again
    checkpointed: dict[int, torch.UntypedStorage] = {}
    inside, largest = 0, 0

    def keep(tensor: Tensor, *helds: dict[int, torch.UntypedStorage]) -> Tensor:
        for held in helds or (plain, checkpointed):
            if _place(tensor) not in weights:
                held[_place(tensor)] = tensor.untyped_storage()
        return tensor

    def trace(block: nn.Module, args: tuple[Any, ...]) -> _KeptBlock:
        weights.update(_place(parameter) for parameter in block.to_empty(device="cpu").parameters())
        saved: dict[int, torch.UntypedStorage] = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: keep(tensor, saved), lambda tensor: tensor):
            output = type(block).forward(block, *args)
        inputs = [number for number, tensor in enumerate(_tensors(args)) if _place(tensor) in saved]
        keeps_output = _place(output) in saved
        for tensor in (*_tensors(args), output):
            saved.pop(_place(tensor), None)
        return _KeptBlock(_bytes(saved), inputs, keeps_output, output)

    def use(block: _KeptBlock, args: tuple[Any, ...]) -> Tensor:
        nonlocal inside, largest
        output, before = _stand_in(block.output, args), _bytes(plain)
        for number in block.inputs:
            keep(_tensors(args)[number], plain)
        if block.keeps_output:
            keep(output, plain)
        inside += block.own
        largest = max(largest, block.own + _bytes(plain) - before)
        for arg in args:  # as torch.utils.checkpoint, which keeps no tensors within other arguments
            if isinstance(arg, Tensor):
                keep(arg, checkpointed)
        return output

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with _blocks_once(network, trace, use), cast, hooks:
        run(network, samples, torch.device("cpu"))
    return ActivationMemory(_bytes(plain) + inside, largest, _bytes(checkpointed))


def count(network: nn.Module, run: Pass) -> Arithmetic:
    """The arithmetic of one sample in training.

    Args:
        network: on the meta device, where attention is two products.
        run: one pass.
    """
    forward = backward = 0
    traced = 0  # by the counter, within blocks that are traced

    def trace(block: nn.Module, args: tuple[Any, ...]) -> tuple[Arithmetic, Tensor]:
        nonlocal traced
        start = counter.get_total_flops()
        output = type(block).forward(block, *_without_history(args))
        middle = counter.get_total_flops()
        if output.requires_grad:
            output.backward(torch.empty_like(output))
        end = counter.get_total_flops()
        traced += end - start
        return Arithmetic(middle - start, end - middle), output.detach().requires_grad_(output.requires_grad)

    def use(block: tuple[Arithmetic, Tensor], args: tuple[Any, ...]) -> Tensor:
        nonlocal forward, backward
        arithmetic, output = block
        forward, backward = forward + arithmetic.forward, backward + arithmetic.backward
        return _stand_in(output, args)

    with FlopCounterMode(display=False) as counter, _blocks_once(network, trace, use):
        loss = run(network, 1, torch.device("meta"))
        between = counter.get_total_flops() - traced
        loss.backward()
    network.zero_grad()
    return Arithmetic(forward + between, backward + counter.get_total_flops() - traced - between)


@contextmanager
def _blocks_once(
    network: nn.Module,
    trace: Callable[[nn.Module, tuple[Any, ...]], _Known],
    use: Callable[[_Known, tuple[Any, ...]], Tensor],
) -> Iterator[None]:
    """Meanwhile each block gives `use(known, args)`, with what `trace(block, args)` found of the first like it."""
    known: dict[object, _Known] = {}

    def stand_in(block: nn.Module, *args: Any) -> Tensor:
        if (shape := _shape(block, args)) not in known:
            known[shape] = trace(block, args)
        return use(known[shape], args)

    blocks = repeated_blocks(network)
    for block in blocks:
        block.forward = partial(stand_in, block)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _shape(block: nn.Module, args: tuple[Any, ...]) -> object:
    """All that decides what a block keeps and computes."""
    settings = tuple(
        (type(part), *(value for value in vars(part).values() if isinstance(value, bool | int | float | tuple)))
        for part in block.modules()
    )
    tensors = tuple(
        (tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.requires_grad)
        for tensor in (*block.parameters(), *_tensors(args))
    )
    return settings, tensors


def _stand_in(output: Tensor, args: tuple[Any, ...]) -> Tensor:
    """A tensor like `output` through which gradients would reach whatever of `args` wants them."""
    stand_in = torch.empty_like(output).requires_grad_(output.requires_grad)
    wanting = [tensor for tensor in _tensors(args) if tensor.requires_grad]
    return stand_in + sum(0 * tensor.sum().to(output.dtype) for tensor in wanting) if wanting else stand_in


def _without_history(args: tuple[Any, ...]) -> tuple[Any, ...]:
    def leaf(value: Any) -> Any:
        return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value

    return tuple(
        replace(arg, **{field.name: leaf(getattr(arg, field.name)) for field in fields(arg)})
        if is_dataclass(arg) and not isinstance(arg, type)
        else leaf(arg)
        for arg in args
    )


def _tensors(args: tuple[Any, ...]) -> list[Tensor]:
    """The tensors among the arguments of a block, and within those that are records."""
    values = [value for arg in args for value in (vars(arg).values() if is_dataclass(arg) else (arg,))]
    return [value for value in values if isinstance(value, Tensor)]


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(held: dict[int, torch.UntypedStorage]) -> int:
    return sum(storage.nbytes() for storage in held.values())
