"""Attention: one function, with a switch below the modules that decides who computes it."""

import logging
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from ldm.naming import look_up

_log = logging.getLogger(__name__)

_OUTSIDE = {
    "xformers": ("xformers", "xformers"),
    "flash": ("flash", "flash_attn"),
    "flash3": ("_flash_3", "flash_attn_interface"),
    "sage": ("sage", "sageattention"),
    "cudnn": ("_native_cudnn", "torch"),
}
"""Backends reached through `diffusers.models.attention_dispatch`: their names there, the packages they need."""

_FEW_KEYS = 256
_FAR_OFF = 0.1


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v (Vaswani et al. 2017, equation 1) by the backend that `set_backend` chose.

    q: (B, N, Lq, D), k and v: (B, N, Lk, D), mask: (B, Lk) bool, True where a key counts. Returns (B, N, Lq, D).
    """
    if _chosen in _OUTSIDE and _runs(
        _chosen, q.dtype, q.shape[-1], q.device, mask is not None, torch.is_grad_enabled() and q.requires_grad
    ):
        return _outside(_chosen, q, k, v, mask)
    return _INSIDE.get(_chosen, _automatic)(q, k, v, mask)


def set_backend(name: str) -> str:
    """Choose who computes attention from now on in this process; returns the name that was in force.

    `auto` (the default) and `sdpa` are PyTorch's kernels, `math` is two matrix products, `auto` knows when these are
    faster. `xformers`, `flash`, `flash3`, `sage` and `cudnn` need their package or device: where one cannot run, one
    line is logged and `auto` takes over.

    Raises ValueError for an unknown name.
    """
    global _chosen
    look_up("attention backend", name, {**_INSIDE, **_OUTSIDE})
    before, _chosen = _chosen, name
    return before


def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """`attend` by PyTorch's own choice of kernel."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None, None, :])


def matrix_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """`attend` by two matrix products and a softmax, with all scores (B, N, Lq, Lk) in memory."""
    batch, heads, length, dim = q.shape
    # Heads are gathered before k is transposed: the product would otherwise gather an already transposed k, slowly.
    q, k, v = (q * dim**-0.5).reshape(-1, length, dim), k.reshape(-1, *k.shape[2:]), v.reshape(-1, *v.shape[2:])
    scores = torch.bmm(q, k.transpose(1, 2))
    if mask is not None:
        scores = scores.unflatten(0, (batch, heads)).masked_fill(~mask[:, None, None, :], float("-inf")).flatten(0, 1)
    return torch.bmm(scores.softmax(-1).to(v.dtype), v).unflatten(0, (batch, heads))


def _automatic(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """PyTorch's kernel, save where its backward pass on CPUs in bf16 is 3 to 20 times slower than matrix products."""
    trains = torch.is_grad_enabled() and q.requires_grad
    if trains and q.device.type == "cpu" and q.dtype is torch.bfloat16 and k.shape[2] <= _FEW_KEYS:
        return matrix_products(q, k, v, mask)
    return scaled_dot_product(q, k, v, mask)


def _outside(name: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    # Imported only here: it costs 1.6 seconds.
    from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = dispatch_attention_fn(q, k, v, attn_mask=mask, backend=AttentionBackendName(_OUTSIDE[name][0]))
    return out.transpose(1, 2)


@cache
def _runs(name: str, dtype: torch.dtype, head_dim: int, device: torch.device, masked: bool, trains: bool) -> bool:
    """Whether a backend computes attention for such tensors, found by trying it on small ones; a failure is logged."""
    failure = _failure(name, dtype, head_dim, device, masked, trains)
    if failure and name not in _logged:
        _logged.add(name)
        kind = f"{str(dtype).removeprefix('torch.')} heads of width {head_dim} on {device}"
        _log.warning("attention backend %s cannot do %s (%.150s); using auto", name, kind, failure)
    return not failure


def _failure(name: str, dtype: torch.dtype, head_dim: int, device: torch.device, masked: bool, trains: bool) -> str:
    """What goes wrong when a backend is tried, in one line; empty if nothing does."""
    package = _OUTSIDE[name][1]
    if find_spec(package) is None:
        return f"package {package} is not installed"
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 64, head_dim, generator=generator).to(device, dtype).requires_grad_(trains)
    mask = (torch.arange(64, device=device) < 40).expand(2, 64) if masked else None
    try:
        with torch.set_grad_enabled(trains):
            out = _outside(name, q, k, v, mask)
            if trains:
                out.sum().backward()
        off = float((out.float() - scaled_dot_product(q, k, v, mask).float()).abs().max())
    except Exception as error:  # whatever a package outside raises must not stop a picture
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return "" if off < _FAR_OFF else f"its result is {off:.2g} off"


_INSIDE: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]] = {
    "auto": _automatic,
    "sdpa": scaled_dot_product,
    "math": matrix_products,
}
_chosen = "auto"
_logged: set[str] = set()
