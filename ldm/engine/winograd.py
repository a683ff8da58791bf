"""3x3 convolutions on CPUs with 16 products where their definition takes 36: Winograd's minimal filtering F(2x2, 3x3).

Each 2x2 cells of the output are Y = A^T [(G g G^T) * (B^T d B)] A, where d are the 4x4 cells that they depend on, and g
is the kernel between two channels (Lavin and Gray, arXiv:1509.09308, section 4.1). Summed over channels, the products
at each of the 4x4 places are a matrix product, which is left to oneDNN. It takes 0.55 to 0.7 of its direct
convolution's time, and in fp32 it rounds no more.

Tiles are taken some at a time, so that what lies between the products stays in the caches.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ldm.engine.onednn import linear, linear_and_add, pack

Kernel = list[list[Tensor]]
"""G g G^T: a packed matrix (C', C) at each of the 4x4 places."""

_G = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
_B = ((0, 2, -1), (1, 2, 1), (2, 1, -1), (1, 3, -1))
"""Row (a, b, s) of B^T d: d_a + s d_b."""
_TILES = 256
"""That a thread works on at a time: for fewer, weights are read too often; what more need is in no cache."""
_LEAST_CELLS, _LEAST_PAIRS, _LEAST_WORK = 2**8, 2**15, 2**24
"""Cells of a map, pairs of channels, and both of a thread, from which on it is faster: sums around products cost time.

Maps of few cells and many channels gain least and need most memory."""


def is_worth_it(x: Tensor, kernel: Tensor, padding: tuple[int, ...]) -> bool:
    """Whether `convolve` can and is faster for x (B, C, H, W) and a kernel (C', C, h, w) of stride 1.

    In bf16 it never is: it would save a twelfth of a network's time, and make its error 1.4 times as large.
    """
    if not _is_fit(kernel):
        return False
    height, width = _output_size(x, padding)
    cells, pairs = height * width, kernel.shape[0] * kernel.shape[1]
    large = cells >= _LEAST_CELLS and cells * pairs >= _LEAST_WORK * torch.get_num_threads()
    return large and height % 2 == width % 2 == 0


def most_bytes(weight: Tensor) -> int:
    """That a layer with this weight takes in oneDNN's order, or as `pack_kernel` gives it."""
    return weight.nbytes * 16 // 9 if _is_fit(weight) else weight.nbytes


def _is_fit(weight: Tensor) -> bool:
    shape = weight.shape
    return shape[2:] == (3, 3) and shape[0] * shape[1] >= _LEAST_PAIRS and weight.dtype is torch.float32


def pack_kernel(kernel: Tensor) -> Kernel:
    """G g G^T of a kernel (C', C, 3, 3)."""
    matrix = kernel.new_tensor(_G)
    places = torch.einsum("ik,ockl,jl->ijoc", matrix, kernel.detach(), matrix)
    places[:, 3].neg_()  # what `_halfway` subtracts is added, as a part of the product
    return [[pack(place) for place in row] for row in places]


def convolve(x: Tensor, kernel: Kernel, bias: Tensor | None, padding: tuple[int, ...]) -> Tensor:
    """A convolution of stride 1 by a 3x3 kernel.

    Args:
        x: (B, C, H, W), channels_last.
        kernel: of `pack_kernel`.
        bias: (C',).
        padding: rows and columns of zeros around x. The output's height and width are even.

    Returns:
        (B, C', H + 2 rows - 2, W + 2 columns - 2), channels_last.
    """
    height, width = _output_size(x, padding)
    out = x.new_empty(len(x), height, width, kernel[0][0].shape[0])
    for images, first, last in _parts(len(x), height // 2, width // 2):
        cells = _padded(x.permute(0, 2, 3, 1)[images], 2 * first, 2 * last + 2, padding)
        place = out[images, 2 * first : 2 * last]
        _fill(place.unflatten(2, (width // 2, 2)).unflatten(1, (last - first, 2)), cells, kernel, bias)
    return out.permute(0, 3, 1, 2)


def _output_size(x: Tensor, padding: tuple[int, ...]) -> tuple[int, int]:
    return x.shape[2] + 2 * padding[0] - 2, x.shape[3] + 2 * padding[1] - 2


def _parts(batch: int, rows: int, columns: int) -> Iterator[tuple[slice, int, int]]:
    """Images, first row of tiles and the row behind the last one, of all that are worked on at a time."""
    tiles = _TILES * torch.get_num_threads()
    images, height = max(1, tiles // (rows * columns)), max(1, tiles // columns)
    for image in range(0, batch, images):
        for row in range(0, rows, height):
            yield slice(image, image + images), row, min(row + height, rows)


def _padded(x: Tensor, first: int, last: int, padding: tuple[int, ...]) -> Tensor:
    """Rows first to last of x (B, H, W, C) with zeros around it."""
    first, last, above, aside = first - padding[0], last - padding[0], *padding
    rows = x[:, max(first, 0) : last]
    return F.pad(rows, (0, 0, aside, aside, max(-first, 0), max(last - x.shape[1], 0))) if above or aside else rows


def _fill(out: Tensor, x: Tensor, kernel: Kernel, bias: Tensor | None) -> None:
    """Write tiles of the output, (B, rows, 2, columns, 2, C'), from the cells x, (B, 2 rows + 2, 2 columns + 2, C)."""
    halfway = [
        _halfway(_combined(x, 1, out.shape[1], row), kernel[i], bias if i == 1 else None) for i, row in enumerate(_B)
    ]
    for column, (first, second, third, last) in enumerate(zip(*halfway, strict=True)):
        torch.add(first.add_(second), third, out=out[:, :, 0, :, column])
        torch.sub(second.sub_(third), last, out=out[:, :, 1, :, column])


def _halfway(x: Tensor, kernel: list[Tensor], bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The products of four places in a row, times A: what they add to left and to right cells.

    The second place is a summand of every cell, and so has the bias. `kernel` is of `pack_kernel`.
    """
    first, second, third, last = (_combined(x, 2, x.shape[2] // 2 - 1, row) for row in _B)
    m, n = linear(second, kernel[1], bias), linear(third, kernel[2])
    left = linear_and_add(first, kernel[0], m).add_(n)
    return left, linear_and_add(last, kernel[3], m.sub_(n))


def _combined(x: Tensor, axis: int, tiles: int, row: tuple[int, int, int]) -> Tensor:
    """A row of B^T times the cells of all tiles along an axis of x."""
    first, second, sign = row
    span = (slice(None),) * axis
    stop = 2 * tiles - 1
    return torch.add(x[(*span, slice(first, first + stop, 2))], x[(*span, slice(second, second + stop, 2))], alpha=sign)
