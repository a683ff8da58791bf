"""Attention: one function, and a backend that each network's layers choose for themselves."""

import logging
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.kernels import uses_kernels
from ldm.naming import look_up
from ldm.networks.backends import BACKENDS, DEFAULT, OWN, THROUGH_DIFFUSERS

_log = logging.getLogger(__name__)

_FEW_KEYS = 256
_FAR_OFF = 0.1


class AttentionLayer(Protocol):
    """The layer whose attention a hook computes, as the hook sees it."""

    name: str
    """The layer's name inside the network, such as `mid_block.attentions.0.transformer_blocks.0.attn1`."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """`attend` by the layer's backend."""


AttentionHook = Callable[[AttentionLayer, Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""`(layer, q, k, v, mask) -> out` in place of a layer's attention; shapes as of `attend`."""


class Attending(nn.Module):
    """Base of the layers that compute attention: each has a name and a backend, and lets a hook take its place."""

    name: str = ""
    backend: str = DEFAULT

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """See the function of this name."""
        return attend(q, k, v, mask, self.backend)


class Backend(NamedTuple):
    """A way to compute attention.

    Attributes:
        name: key of the backend.
        usable: whether it can run here.
        reason: why it cannot; empty where it can.
    """

    name: str
    usable: bool
    reason: str


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, backend: str = DEFAULT) -> Tensor:
    """softmax(q k^T / sqrt(D)) v (Vaswani et al. 2017, equation 1).

    Args:
        q: (B, N, Lq, D).
        k: (B, N, Lk, D).
        v: (B, N, Lk, D).
        mask: (B, Lk) bool, True where a key counts.
        backend: see `set_attention`. One that cannot do it logs one line, and `sdpa` takes over.

    Returns:
        (B, N, Lq, D).
    """
    if backend in THROUGH_DIFFUSERS:
        trains = torch.is_grad_enabled() and q.requires_grad
        if _runs(backend, q.dtype, q.shape[-1], q.device, mask is not None, trains):
            return _through_diffusers(backend, q, k, v, mask)
        backend = DEFAULT
    return _OWN[backend](q, k, v, mask)


def set_attention(network: nn.Module, name: str) -> None:
    """Choose the backend of all attention layers of a network, and of no other network.

    `sdpa` (the default) is PyTorch's choice of kernel, `math` two matrix products; `xformers`, `flash`, `flash3`,
    `sage` and `cudnn` need their package or device: where one cannot run, one line is logged and `sdpa` takes over.

    Args:
        network: a network, or a module with networks inside.
        name: one of `attention_backends`.

    Raises:
        ValueError: an unknown name, with the nearest known one.
    """
    look_up("attention backend", name, dict.fromkeys(BACKENDS))
    for module in network.modules():
        if isinstance(module, Attending):
            module.backend = name


def attention_backends(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, head_dim: int = 64
) -> list[Backend]:
    """Every backend, and whether it can draw here with heads of this type and width (found by trying it)."""
    place = torch.device(device)
    reasons = {name: _failure(name, dtype, head_dim, place, False, False) for name in THROUGH_DIFFUSERS}
    return [Backend(name, True, "") for name in OWN] + [Backend(name, not why, why) for name, why in reasons.items()]


def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """`attend` by PyTorch's kernels; in bf16 training on CPUs by matrix products, which are 3 to 20 times faster."""
    trains = torch.is_grad_enabled() and q.requires_grad
    if trains and q.dtype is torch.bfloat16 and k.shape[2] <= _FEW_KEYS and uses_kernels(q):
        return matrix_products(q, k, v, mask)
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


def _through_diffusers(name: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    # Imported only here: it costs 1.6 seconds.
    from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out: Tensor = dispatch_attention_fn(
        q, k, v, attn_mask=mask, backend=AttentionBackendName(THROUGH_DIFFUSERS[name][0])
    )
    return out.transpose(1, 2)


@cache
def _runs(name: str, dtype: torch.dtype, head_dim: int, device: torch.device, masked: bool, trains: bool) -> bool:
    """Whether a backend computes attention for such tensors; the first failure of each backend is logged."""
    failure = _failure(name, dtype, head_dim, device, masked, trains)
    if failure and name not in _logged:
        _logged.add(name)
        kind = f"{str(dtype).removeprefix('torch.')} heads of width {head_dim} on {device}"
        _log.warning("attention backend %s cannot do %s (%.150s); using %s", name, kind, failure, DEFAULT)
    return not failure


@cache
def _failure(name: str, dtype: torch.dtype, head_dim: int, device: torch.device, masked: bool, trains: bool) -> str:
    """The error of a backend on small tensors, in one line; empty if there is none."""
    package = THROUGH_DIFFUSERS[name][1]
    if find_spec(package) is None:
        return f"package {package} is not installed"
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 64, head_dim, generator=generator).to(device, dtype).requires_grad_(trains)
    mask = (torch.arange(64, device=device) < 40).expand(2, 64) if masked else None
    try:
        with torch.set_grad_enabled(trains):
            out = _through_diffusers(name, q, k, v, mask)
            if trains:
                out.sum().backward()
        off = float((out.float() - scaled_dot_product(q, k, v, mask).float()).abs().max())
    except Exception as error:  # whatever a foreign package raises must not stop a picture
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return "" if off < _FAR_OFF else f"its result is {off:.2g} off"


_OWN: Mapping[str, Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]] = {
    "sdpa": scaled_dot_product,
    "math": matrix_products,
}
_logged: set[str] = set()
