"""Attention of many tokens on CPUs as oneDNN's matrix products, which PyTorch's fused kernel leaves to MKL."""

import torch
from torch import Tensor

from ldm.engine.onednn import linear

_WORTH_IT = 3_000_000
"""Multiplications of a head and a thread from which on the products take less time than PyTorch's kernel."""
_CACHED = 2**19
"""Scores that a thread works on at a time, so that they stay in its caches."""
_LEAST_ROWS = 128
"""Queries of a product, however many keys: of fewer it is slow."""


def is_worth_products(q: Tensor, k: Tensor) -> bool:
    """Whether `attention_by_products` is faster for q (B, N, Lq, D) and k (B, N, Lk, D); else it is slower.

    By AMX, PyTorch's kernel has scores of bf16 in fp32 at many times the speed of a product in fp32.
    """
    if q.dtype is not torch.float32 and torch.cpu._is_amx_tile_supported():
        return False
    return q.shape[2] * k.shape[2] * q.shape[3] >= _WORTH_IT * torch.get_num_threads()


def attention_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, head by head, some queries at a time.

    Scores are in fp32 in either type: as products of bf16 give them, they would cost accuracy.

    Args:
        q: (B, N, Lq, D), fp32 or bf16.
        k: (B, N, Lk, D).
        v: (B, N, Lk, D).

    Returns:
        (B, N, Lq, D), whose heads lie together.
    """
    batch, heads, length, dim = q.shape
    out = q.new_empty(batch, length, heads, dim)
    rows = max(_LEAST_ROWS, _CACHED * torch.get_num_threads() // k.shape[2])
    for sample in range(batch):
        for head in range(heads):
            keys, values = k[sample, head].float() * dim**-0.5, v[sample, head].t().contiguous()
            queries = q[sample, head].split(rows)
            for part, place in zip(queries, out[sample, :, head].split(rows), strict=True):
                scores = linear(part.float(), keys)
                place.copy_(linear(torch.softmax(scores, -1, out=scores).to(q.dtype), values))
    return out.transpose(1, 2)
