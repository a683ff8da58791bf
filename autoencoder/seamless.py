"""Networks for pictures whose edges meet: every convolution sees the opposite edge in place of nothing."""

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from autoencoder.views import with_layers

Module = TypeVar("Module", bound=nn.Module)


def seamless(network: Module, wraps: tuple[bool, bool]) -> Module:
    """The network as a new object whose maps go round; it shares all weights, and the network itself is left alone.

    Rolling what it is given by whole cells of its coarsest level rolls what it gives. Each layer runs as it is on a
    map that goes on a little at each side, of which that much is cut off again, so kernels and compilation of layers
    are what they are otherwise.

    Args:
        network: of layers that are `nn.Conv2d`, or have a `margin` and a `scale`: of how many cells around it a cell
            is made, and how many cells of the output are one of the input.
        wraps: whether maps go round along height and along width.
    """
    return with_layers(network, {layer: _Wrapped(layer, wraps, *reach) for layer, reach in _spatial(network)})


def _spatial(network: nn.Module) -> Iterator[tuple[nn.Module, tuple[int, float]]]:
    """The outermost layers that see beyond a cell, each with margin and scale."""
    for layer in network.children():
        margin, scale = getattr(layer, "margin", None), getattr(layer, "scale", None)
        if isinstance(margin, int) and isinstance(scale, int | float):
            yield layer, (margin, scale)
        elif not isinstance(layer, nn.Conv2d):
            yield from _spatial(layer)
        elif padding := max(int(each) for each in layer.padding):
            stride = int(layer.stride[0])
            yield layer, (-(-padding // stride) * stride, 1 / stride)


class _Wrapped(nn.Module):
    """A layer on a map that goes round: (B, C, H, W) -> (B, C', scale H, scale W)."""

    def __init__(self, layer: nn.Module, wraps: tuple[bool, bool], margin: int, scale: float) -> None:
        super().__init__()
        self.layer, self.wraps, self.margin, self.cut = layer, wraps, margin, int(margin * scale)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """x: (B, C, H, W). size: of the output, for layers that take it."""
        for axis in self._axes:
            length = x.shape[axis]
            x = x.index_select(axis, torch.arange(-self.margin, length + self.margin, device=x.device) % length)
        sizes = [] if size is None else [[s + 2 * self.cut * w for s, w in zip(size, self.wraps, strict=True)]]
        out: Tensor = self.layer(x, *sizes)
        for axis in self._axes:
            out = out.narrow(axis, self.cut, out.shape[axis] - 2 * self.cut)
        return out

    @property
    def _axes(self) -> list[int]:
        return [axis for axis, wraps in zip((2, 3), self.wraps, strict=True) if wraps]
