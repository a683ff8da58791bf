"""Attention of many tokens on CPUs as oneDNN's matrix products, which PyTorch's fused kernel leaves to MKL."""

import torch
from torch import Tensor

_WORTH_IT = 3_000_000
"""Multiplications of a head and a thread from which on the products take less time than PyTorch's kernel."""
_CACHED = 2**19
"""Scores that a thread works on at a time, so that they stay in its caches."""


def is_worth_products(q: Tensor, k: Tensor) -> bool:
    """Whether `attention_by_products` is faster for q (B, N, Lq, D) and k (B, N, Lk, D); else it is slower.

    In fp32 alone: scores in bf16, as its products give them, would cost accuracy.
    """
    size = q.shape[2] * k.shape[2] * q.shape[3]
    return q.dtype is torch.float32 and size >= _WORTH_IT * torch.get_num_threads()


def attention_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, head by head, some queries at a time.

    Args:
        q: (B, N, Lq, D).
        k: (B, N, Lk, D).
        v: (B, N, Lk, D).

    Returns:
        (B, N, Lq, D), whose heads lie together.
    """
    batch, heads, length, dim = q.shape
    out = q.new_empty(batch, length, heads, dim)
    rows = max(1, _CACHED * torch.get_num_threads() // k.shape[2])
    for sample in range(batch):
        for head in range(heads):
            keys, values = k[sample, head] * dim**-0.5, v[sample, head].t().contiguous()
            queries = q[sample, head].split(rows)
            for part, place in zip(queries, out[sample, :, head].split(rows), strict=True):
                scores = _product(part, keys)
                place.copy_(_product(torch.softmax(scores, -1, out=scores), values))
    return out.transpose(1, 2)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """x (L, D) times weight (D', D) transposed."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return out
