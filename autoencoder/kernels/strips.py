"""Layers on large maps, strip by strip of their rows.

All at once, a convolution needs the normalised map beside the map itself, and copies of what it is given and gives in
the order in which its kernel reads. In strips, all of that is as large as a strip, and stays in the caches. A strip has
a row more at each side, whose results are cut off, and the statistics of a norm are of the whole map, so nothing but
rounding differs.
"""

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.kernels.switch import uses_kernels

_LARGE = 2**25
"""Bytes of one picture's map from which on it goes in strips, whatever else is in the batch."""
_STRIP = 2**22
"""Bytes of a strip of it, about."""
_LEAST_ROWS = 16


@runtime_checkable
class StatisticsApart(Protocol):
    """A norm that can say what it does to each channel before it does it."""

    silu: bool

    def scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Factor and summand of every channel of x (B, C, H, W), both (B, C) or (1, C)."""


def is_large(x: Tensor) -> bool:
    """Whether a map (B, C, H, W) goes in strips: on a CPU, where it takes much memory and needs no gradient."""
    return x[0].nbytes >= _LARGE and not torch.is_grad_enabled() and uses_kernels(x)


def in_strips(run: Callable[[Tensor], Tensor], x: Tensor, channels: int, scale: int = 1) -> Tensor:
    """run(x): (B, C, H, W) -> (B, C', scale H, scale W), in the memory layout of x.

    Args:
        run: of which a row depends on its neighbours at most.
        x: not changed.
        channels: C'.
        scale: rows of the result for one of x.
    """
    height, width = x.shape[2:]
    shape = (x.shape[0], channels, scale * height, scale * width)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(x))
    for rows in _strips(x):
        above = max(rows.start - 1, 0)
        made = run(x[:, :, above : min(rows.stop + 1, height)])
        first, last = scale * rows.start, scale * rows.stop
        out[:, :, first:last] = made[:, :, first - scale * above : last - scale * above]
    return out


def in_place(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """run(x), likewise, written over x (B, C, H, W), whose shape and layout it has."""
    before = x[:, :, :0]  # the last row of the strip above, as it was
    for rows in _strips(x):
        given = torch.cat([before, x[:, :, rows.start : rows.stop + 1]], 2)
        first, before = before.shape[2], x[:, :, rows.stop - 1 : rows.stop].clone()
        x[:, :, rows] = run(given)[:, :, first : first + rows.stop - rows.start]
    return x


def normalise_and_convolve(x: Tensor, norm: StatisticsApart, convolution: nn.Conv2d, over: bool = False) -> Tensor:
    """convolution(norm(x)) in strips: (B, C, H, W) -> (B, C', H, W); of a 3x3 kernel, of stride and padding 1.

    Args:
        x: what is given.
        norm: of it.
        convolution: of what the norm gives.
        over: whether the result may be written over x, where it has its shape.
    """
    scale, shift = (each.to(x.dtype)[:, :, None, None] for each in norm.scale_and_shift(x))

    def run(rows: Tensor) -> Tensor:
        y = torch.addcmul(shift, rows, scale)
        made: Tensor = convolution(F.silu(y, inplace=True) if norm.silu else y)
        return made

    if over and convolution.out_channels == x.shape[1]:
        return in_place(run, x)
    return in_strips(run, x, convolution.out_channels)


def add_in_strips(out: Tensor, x: Tensor, layer: nn.Module) -> Tensor:
    """out + layer(x), written into out (B, C', H, W); `layer` looks at one cell at a time."""
    for rows in _strips(x):
        out[:, :, rows] += layer(x[:, :, rows])
    return out


def _strips(x: Tensor) -> Iterator[slice]:
    """The rows of x (B, C, H, W), some at a time."""
    height = x.shape[2]
    step = max(_LEAST_ROWS, _STRIP * height // x[0].nbytes)
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def mean_and_variance(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Of each group of channels of a map (B, C, H, W), both (B, groups) in fp64.

    Those of strips and channels are put together (Chan et al. 1979, "Updating formulae"), which loses no digits.
    """
    parts, weights = [], []
    for rows in _strips(x):
        parts.append(torch.var_mean(x[:, :, rows].float(), (2, 3), correction=0))
        weights.append((rows.stop - rows.start) / x.shape[2])
    share = torch.tensor(weights, dtype=torch.float64)[:, None, None, None]
    variances, means = (
        torch.stack(each).double().unflatten(2, (groups, -1)) for each in zip(*parts, strict=True)
    )  # (strips, B, groups, channels)
    mean = (share * means).sum(0).mean(2)
    return mean, (share * (variances + (means - mean[..., None]).square())).sum(0).mean(2)


def _layout(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
