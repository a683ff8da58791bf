"""GELU as a gate, whose training on CPUs is bound by memory: a part at a time, kept in the caches between its steps."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from autoencoder.kernels.switch import uses_kernels

_CACHED = 2**18
"""Numbers of the input a thread works on at a time."""


def geglu(x: Tensor) -> Tensor:
    """value * gelu(gate) of x = [value, gate] (Shazeer 2020, equation 6). x: (..., 2 D); returns (..., D)."""
    if torch.is_grad_enabled() and x.requires_grad and uses_kernels(x):
        return _Gated.apply(x)
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


class _Gated(torch.autograd.Function):
    """Keeps x alone: the GELU is recomputed in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        rows = x.flatten(0, -2)
        out = rows.new_empty(rows.shape[0], rows.shape[1] // 2)
        for part in _parts(rows):
            value, gate = rows[part].chunk(2, dim=-1)
            torch.mul(value, F.gelu(gate), out=out[part])
        return out.unflatten(0, x.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        rows, grads = x.flatten(0, -2), grad.flatten(0, -2)
        out = torch.empty_like(rows)
        for part in _parts(rows):
            value, gate = rows[part].chunk(2, dim=-1)
            dvalue, dgate = out[part].chunk(2, dim=-1)
            torch.mul(grads[part], F.gelu(gate), out=dvalue)
            torch.ops.aten.gelu_backward.grad_input(grads[part] * value, gate, grad_input=dgate)
        return out.view(x.shape)


def _parts(rows: Tensor) -> Iterator[slice]:
    """Slices of the rows whose work fits the caches."""
    step = max(1, _CACHED * torch.get_num_threads() // rows.shape[1])
    return (slice(start, start + step) for start in range(0, rows.shape[0], step))
