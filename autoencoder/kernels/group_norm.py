"""Group normalisation with SiLU, fast on CPUs for channels_last tensors.

PyTorch's own kernel for channels_last on CPUs walks the few channels of one group at a time and is 10 to 30 times
slower than the sums below, which run along whole rows of channels. The arithmetic is fp32 whatever the features are.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from autoencoder.kernels.strips import mean_and_variance, split
from autoencoder.kernels.switch import uses_kernels

_CACHED = 2**17
"""Numbers (fp32) a thread works on at a time, so that the passes over them stay in its cache."""


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu and He 2018, equation 1), then SiLU where `silu` is set."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, silu: bool = False) -> None:
        super().__init__(num_groups, num_channels, eps)
        self.silu = silu

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W); returns the same shape, type and memory layout."""
        last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        if last and uses_kernels(x):
            return _ChannelsLast.apply(x, self.weight, self.bias, self.num_groups, self.eps, self.silu)
        y = super().forward(x)
        return F.silu(y) if self.silu else y

    def scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The norm of x (B, C, H, W) as factor and summand of every channel, both (B, C) in fp64."""
        return self.scale_and_shift_of(split(x))

    def scale_and_shift_of(self, parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        """Likewise, of the map that strips of rows (B, C, h, W) make up."""
        mean, variance = mean_and_variance(parts, self.num_groups)
        per_group = self.num_channels // self.num_groups
        mean, rstd = (each.repeat_interleave(per_group, 1) for each in (mean, (variance + self.eps).rsqrt()))
        scale = rstd * self.weight.double()
        return scale, self.bias.double() - mean * scale


class _ChannelsLast(torch.autograd.Function):
    """y = silu(xhat * weight + bias) over tokens (B, H * W, C). Keeps x, recomputes the rest in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
        tokens, size = _tokens(x), x[0].numel() // groups
        out, mean, rstd = torch.empty_like(tokens), x.new_empty(x.shape[:2], dtype=torch.float32), []
        for part, (features, y) in _parts(tokens, 2):
            features.copy_(tokens[part])
            mean[part] = _over_groups(features.sum(1), groups) / size
            features.sub_(mean[part, None])
            torch.mul(features, features, out=y)
            rstd.append((_over_groups(y.sum(1), groups) / size + eps).rsqrt())
            torch.addcmul(bias.float(), features, (rstd[-1] * weight.float())[:, None], out=y)
            out[part] = F.silu(y, inplace=True) if silu else y
        ctx.save_for_backward(x, weight, bias, mean, torch.cat(rstd))
        ctx.groups, ctx.silu, ctx.size = groups, silu, size
        return _pixels(out, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        tokens, grads, scale = _tokens(x), _tokens(grad), rstd * weight.float()
        out, sums, products = torch.empty_like(tokens), [], []
        for part, (features, dy, y) in _parts(tokens, 3):
            features.copy_(tokens[part]).sub_(mean[part, None])
            dy.copy_(grads[part])
            factor = scale[part]
            if ctx.silu:
                torch.addcmul(bias.float(), features, factor[:, None], out=y)
                torch.ops.aten.silu_backward.grad_input(dy, y, grad_input=dy)
            sums.append(dy.sum(1))
            products.append(torch.mul(dy, features, out=y).sum(1) * rstd[part])
            shift = _over_groups(sums[-1] * factor, ctx.groups) / ctx.size
            slope = _over_groups(products[-1] * factor, ctx.groups) * rstd[part] / ctx.size
            torch.addcmul(-shift[:, None], dy, factor[:, None], out=y)
            out[part] = y.addcmul_(features, slope[:, None], value=-1)
        dweight, dbias = torch.cat(products).sum(0).to(weight.dtype), torch.cat(sums).sum(0).to(bias.dtype)
        return _pixels(out, x), dweight, dbias, None, None, None


def _parts(tokens: Tensor, rooms: int) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the batch whose work fits the caches, with the same `rooms` for it (rooms, n, H * W, C) each time."""
    step = max(1, _CACHED * torch.get_num_threads() // tokens[0].numel())
    step = min(step, tokens.shape[0])
    room = tokens.new_empty(rooms, step, *tokens.shape[1:], dtype=torch.float32)
    for start in range(0, tokens.shape[0], step):
        yield slice(start, start + step), room[:, : tokens.shape[0] - start]


def _tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C), without a copy if channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _pixels(tokens: Tensor, like: Tensor) -> Tensor:
    """(B, H * W, C) -> (B, C, H, W) channels_last, without a copy."""
    return tokens.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


def _over_groups(per_channel: Tensor, groups: int) -> Tensor:
    """Sums (B, C) over the channels of each group and hands every channel the sum of its group: (B, C)."""
    grouped = per_channel.unflatten(1, (groups, -1))
    return grouped.sum(2, keepdim=True).expand_as(grouped).flatten(1)
