"""Layers on large maps, strip by strip of their rows.

All at once, a convolution needs the normalised map beside the map itself, and copies of what it is given and gives in
the order in which its kernel reads. In strips, all of that is as large as a strip, and stays in the caches. A strip has
a row more at each side, whose results are cut off, and the statistics of a norm are of the whole map, so nothing but
rounding differs.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.kernels.switch import uses_kernels

LARGE = 2**25
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
    return x[0].nbytes >= LARGE and not torch.is_grad_enabled() and uses_kernels(x)


def strips(run: Callable[[Tensor], Tensor], x: Tensor, scale: float = 1, margin: int = 1) -> Iterator[Tensor]:
    """run(x) as the strips of rows that make it up: (B, C, H, W) -> (B, C', some, scale W) until all are there.

    Args:
        run: of which a row depends on `margin` rows at each side at most.
        x: not changed, unless whoever takes the strips writes over the rows that are done with.
        scale: rows of the result for one of x, 2, 1 or 0.5, with which `margin` is even.
        margin: rows.
    """
    for rows in _rows(x, scale):
        above = max(rows.start - margin, 0)
        made = run(x[:, :, above : rows.stop + margin])
        yield made[:, :, int(scale * (rows.start - above)) : int(scale * (rows.stop - above))]


def in_strips(run: Callable[[Tensor], Tensor], x: Tensor, channels: int, scale: float = 1, margin: int = 1) -> Tensor:
    """run(x), likewise: (B, C, H, W) -> (B, C', scale H, scale W), in the memory layout of x.

    Args:
        run: see `strips`.
        x: not changed.
        channels: C'.
        scale: see `strips`.
        margin: rows.
    """
    height, width = x.shape[2:]
    shape = (x.shape[0], channels, int(scale * height), int(scale * width))
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(x))
    for place, part in _places(out, strips(run, x, scale, margin)):
        place.copy_(part)
    return out


def in_place(run: Callable[[Tensor], Tensor], x: Tensor, margin: int = 1) -> Tensor:
    """run(x), likewise, written over x (B, C, H, W), whose shape and layout it has."""
    before = x[:, :, :0]  # the last rows of the strip above, as they were
    for rows in _rows(x):
        given = torch.cat([before, x[:, :, rows.start : rows.stop + margin]], 2)
        first, length = before.shape[2], rows.stop - rows.start
        before = given[:, :, max(first + length - margin, 0) : first + length]
        x[:, :, rows] = run(given)[:, :, first : first + length]
    return x


def normalise_and_convolve(x: Tensor, norm: StatisticsApart, convolution: nn.Conv2d, over: bool = False) -> Tensor:
    """convolution(norm(x)) in strips: (B, C, H, W) -> (B, C', H, W); of a 3x3 kernel, of stride and padding 1.

    Args:
        x: what is given.
        norm: of it.
        convolution: of what the norm gives.
        over: whether the result may be written over x, where it has its shape.
    """
    normalise = normalisation(norm, norm.scale_and_shift(x))

    def run(rows: Tensor) -> Tensor:
        made: Tensor = convolution(normalise(rows))
        return made

    if over and convolution.out_channels == x.shape[1]:
        return in_place(run, x)
    return in_strips(run, x, convolution.out_channels)


def normalisation(norm: StatisticsApart, scale_and_shift: tuple[Tensor, Tensor]) -> Callable[[Tensor], Tensor]:
    """What gives some rows of a map as the norm gives them, as a new tensor."""

    def normalise(rows: Tensor) -> Tensor:
        scale, shift = (each.to(rows.dtype)[:, :, None, None] for each in scale_and_shift)
        y = torch.addcmul(shift, rows, scale)
        return F.silu(y, inplace=True) if norm.silu else y

    return normalise


def add_in_strips(out: Tensor, x: Tensor, run: Callable[[Tensor], Tensor], scale: float = 1, margin: int = 1) -> Tensor:
    """out + run(x), written into out (B, C', scale H, scale W); see `strips`."""
    for place, part in _places(out, strips(run, x, scale, margin)):
        place.add_(part)
    return out


def _places(out: Tensor, parts: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Strips, each with its rows in the map that they make up."""
    start = 0
    for part in parts:
        yield out[:, :, start : start + part.shape[2]], part
        start += part.shape[2]


def _rows(x: Tensor, scale: float = 1) -> Iterator[slice]:
    """The rows of x (B, C, H, W), some at a time, beginning at even ones."""
    height = x.shape[2]
    grown = max(1, int(scale))
    step = max(_LEAST_ROWS // grown, _STRIP * height // (x[0].nbytes * grown**2))
    step += step % 2
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def mean_and_variance(parts: Iterable[Tensor], groups: int) -> tuple[Tensor, Tensor]:
    """Of each group of channels of a map whose strips are given, (B, C, h, W), both (B, groups) in fp64.

    Those of strips and channels are put together (Chan et al. 1979, "Updating formulae"), which loses no digits.
    """
    found, rows = [], []
    for part in parts:
        cells = part.permute(0, 2, 3, 1).flatten(1, 2).to(torch.float32, copy=True)
        mean = cells.mean(1)
        # Not `torch.var_mean`, which takes 19 times as long where channels lie together.
        found.append((cells.sub_(mean[:, None]).square_().mean(1), mean))
        rows.append(part.shape[2])
    share = torch.tensor(rows, dtype=torch.float64)[:, None, None, None] / sum(rows)
    variances, means = (
        torch.stack(each).double().unflatten(2, (groups, -1)) for each in zip(*found, strict=True)
    )  # (strips, B, groups, channels)
    mean = (share * means).sum(0).mean(2)
    return mean, (share * (variances + (means - mean[..., None]).square())).sum(0).mean(2)


def split(x: Tensor) -> Iterator[Tensor]:
    """The map as strips of its rows, which share its memory."""
    return (x[:, :, rows] for rows in _rows(x))


def _layout(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
