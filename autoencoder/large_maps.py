"""The finest maps of very large pictures on CPUs, in half of the memory and a fifth more time.

Layers in strips (`autoencoder.kernels.strips`) need little beside what they are given and give. Here these are fewer: a
doubled map is never made, its strips are computed wherever they are needed, three times; and a residual block writes
over what it is given, for which the map between its convolutions is computed twice. Nothing but rounding differs.
"""

from collections import deque
from collections.abc import Sequence
from typing import TypeGuard

from torch import Tensor, nn

from autoencoder.blocks import ResnetBlock, Upsample
from autoencoder.kernels import GroupNorm
from autoencoder.kernels.strips import add_in_strips, in_place, in_strips, is_large, normalisation, strips

VERY_LARGE = 2**29
"""Bytes of one picture's map beyond which time is given for memory: 1,024 px in fp32, of width 128, are not more."""


def in_turn(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """What the layers give one after the other; those after the first may write over what they are given.

    Args:
        layers: of a level, or of several.
        x: (B, C, H, W), not changed.
    """
    given, rest = x, deque(layers)
    while rest:
        layer = rest.popleft()
        if _doubles(layer) and rest and _is_plain(block := rest[0]) and _is_very_large(x, 4 * block.conv1.out_channels):
            rest.popleft()
            x = _double_then(block, layer, x)
        elif x is not given and _is_plain(layer) and layer.conv_shortcut is None and _is_very_large(x, x.shape[1]):
            x = _over(layer, x)
        else:
            x = layer(x)
    return x


def _is_very_large(x: Tensor, channels: int) -> bool:
    """Whether a map with so many numbers for each cell of x is."""
    return is_large(x) and x[0, 0].nbytes * channels > VERY_LARGE


def _doubles(layer: nn.Module) -> TypeGuard[Upsample]:
    return isinstance(layer, Upsample) and isinstance(layer.conv, nn.Conv2d)


def _is_plain(block: nn.Module) -> TypeGuard[ResnetBlock]:
    """Whether it is a residual block whose layers are what they are called: not those of a view."""
    if not isinstance(block, ResnetBlock):
        return False
    norms, convolutions = (block.norm1, block.norm2), (block.conv1, block.conv2)
    return all(isinstance(each, GroupNorm) for each in norms) and all(
        isinstance(each, nn.Conv2d) for each in convolutions
    )


def _double_then(block: ResnetBlock, upsample: Upsample, x: Tensor) -> Tensor:
    """block(upsample(x)): (B, C, h, w) -> (B, C', 2 h, 2 w)."""
    first = normalisation(block.norm1, block.norm1.scale_and_shift_of(strips(upsample.doubled, x, scale=2)))

    def between(rows: Tensor) -> Tensor:
        return block.conv1(first(upsample.doubled(rows)))

    def beside(rows: Tensor) -> Tensor:
        doubled = upsample.doubled(rows)
        return doubled if block.conv_shortcut is None else block.conv_shortcut(doubled)

    h = in_strips(between, x, block.conv1.out_channels, scale=2)  # a row is two where the convolution looks at one
    second = normalisation(block.norm2, block.norm2.scale_and_shift(h))
    h = in_place(lambda rows: block.conv2(second(rows)), h)
    return add_in_strips(h, x, beside, scale=2)


def _over(block: ResnetBlock, x: Tensor) -> Tensor:
    """block(x), written over x (B, C, H, W)."""
    first = normalisation(block.norm1, block.norm1.scale_and_shift(x))

    def between(rows: Tensor) -> Tensor:
        return block.conv1(first(rows))

    second = normalisation(block.norm2, block.norm2.scale_and_shift_of(strips(between, x)))
    return in_place(lambda rows: block.conv2(second(between(rows))) + rows, x, margin=2)
