"""What one pass of a network would keep and compute, found without weights, data or arithmetic."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ldm.training.regions import regions
from ldm.unet.attention import set_backend

Pass = Callable[[nn.Module, int, torch.device], Tensor]
"""`(network, samples, device) -> loss ()`, from inputs of the right shapes without meaning."""


@dataclass(frozen=True)
class Arithmetic:
    """Floating-point operations of one sample; a multiplication and an addition are two."""

    forward: int
    backward: int


@dataclass(frozen=True)
class Kept:
    """Bytes that autograd keeps from the forward for the backward pass, and the most of them from within one block."""

    total: int
    block: int


def kept(network: nn.Module, run: Pass, samples: int, dtype: torch.dtype | None, on_gpu: bool) -> Kept:
    """What is kept of one micro-batch, weights themselves not counted but their copies in another dtype.

    Every tensor is counted once, as PyTorch's own kernels save them. On a GPU the attention is PyTorch's fused one and
    features lie in the plain layout; on a CPU both are what our layers choose.

    Args:
        network: on the meta device; it is of no more use afterwards.
        run: a pass.
        samples: how many go through at once.
        dtype: of autocast; None computes in fp32.
        on_gpu: which layers' choices are followed.
    """
    before = set_backend("sdpa") if on_gpu else None
    try:
        if not on_gpu:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with FakeTensorMode(allow_non_fake_inputs=True):
            return _kept(
                network.to_empty(device="cpu"),
                run,
                samples,
                nullcontext() if dtype is None else torch.autocast("cpu", dtype),
            )
    finally:
        if before is not None:
            set_backend(before)


def _kept(network: nn.Module, run: Pass, samples: int, cast: AbstractContextManager[object]) -> Kept:
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    held: dict[int, torch.UntypedStorage] = {}
    entered, largest = 0, 0

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            held[storage._cdata] = storage  # itself, or its number would be given away again
        return tensor

    def total() -> int:
        return sum(storage.nbytes() for storage in held.values())

    def enter(*_: object) -> None:
        nonlocal entered
        entered = total()

    def leave(*_: object) -> None:
        nonlocal largest
        largest = max(largest, total() - entered)

    for block in regions(network):
        block.register_forward_pre_hook(enter)
        block.register_forward_hook(leave)
    with cast, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run(network, samples, torch.device("cpu"))
    return Kept(total(), largest)


def count(network: nn.Module, run: Pass) -> Arithmetic:
    """The arithmetic of one sample in training. network: on the meta device, where attention is two products."""
    with FlopCounterMode(display=False) as counter:
        loss = run(network, 1, torch.device("meta"))
        forward = counter.get_total_flops()
        loss.backward()
    return Arithmetic(forward, counter.get_total_flops() - forward)
