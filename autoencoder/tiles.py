"""Overlapping windows that cover a map, and how what was computed in each becomes one map again."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

FLOOR = 1e-3
"""What is added to the Hann window, so that the outermost cells count too."""


@dataclass(frozen=True, eq=False)
class Tile:
    """One window: which cells of the whole map it shows.

    Attributes:
        rows: numbers `(h,)` of its rows in the whole map.
        columns: numbers `(w,)` of its columns.
    """

    rows: Tensor
    columns: Tensor

    def cut(self, x: Tensor) -> Tensor:
        """Its part `(..., h, w)` of the whole map `(..., H, W)`."""
        return x[(..., *self.at)]

    @property
    def at(self) -> tuple[Tensor, Tensor]:
        """Its cells as an index of the last two axes of a whole map."""
        return self.rows[:, None], self.columns

    @property
    def window(self) -> Tensor:
        """How much each of its cells counts `(h, w)`, above 0; it fades out towards the edges."""
        # A floor under each factor: under their product alone it would rule where the other axis fades out.
        return _window(len(self.rows))[:, None] * _window(len(self.columns))

    def scaled(self, factor: int) -> "Tile":
        """The same window in a map that has `factor` x `factor` cells for each."""
        inside = torch.arange(factor)
        return Tile(*((each[:, None] * factor + inside).flatten() for each in (self.rows, self.columns)))


@dataclass(frozen=True)
class Tiling:
    """How maps are cut into tiles of one size.

    Attributes:
        size: height and width of a tile, in cells; along an axis where the map has no more, one tile is all of it.
        overlap: cells that neighbours share at least.
        wraps: whether the last tile goes on at the map's beginning, along height and along width.

    Raises:
        ValueError: no cells, or tiles that share all of theirs.
    """

    size: int
    overlap: int
    wraps: tuple[bool, bool] = (False, False)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size} is no tile; use 1 or more")
        if not 0 <= self.overlap < self.size:
            raise ValueError(
                f"overlap={self.overlap} is not possible for tiles of {self.size}; use 0 to {self.size - 1}"
            )

    def tiles(self, height: int, width: int, shift: tuple[float, float] = (0.0, 0.0)) -> list[Tile]:
        """The tiles that cover a map, row by row; every cell is in one at least.

        Args:
            height: of the map, in cells.
            width: likewise.
            shift: moves the borders between tiles along each axis by this share of a tile's step, 0 to 1.
        """
        rows, columns = (list(self._spans(*axis)) for axis in zip((height, width), self.wraps, shift, strict=True))
        return [Tile(row, column) for row in rows for column in columns]

    def _spans(self, length: int, wraps: bool, shift: float) -> Iterator[Tensor]:
        cells = torch.arange(min(self.size, length))
        for start in self._starts(length, wraps, shift):
            yield (start + cells) % length

    def _starts(self, length: int, wraps: bool, shift: float) -> list[int]:
        last, stride = length - self.size, self.size - self.overlap
        if last <= 0:
            return [0]
        if wraps:
            step = length / math.ceil(length / stride)
            return [round((i + shift) * step) for i in range(math.ceil(length / stride))]
        steps = math.ceil(last / stride)  # one fewer than ceil((length - overlap) / stride), the number of tiles
        return sorted({min(max(round((i - shift) * last / steps), 0), last) for i in range(steps + 2)})


class Blend:
    """The weighted mean of what tiles gave, under a window that fades out towards a tile's edges.

    It is a running mean, so that what is the same in all tiles stays the same to the bit.

    Attributes:
        mean: the whole map (..., H, W), fp32, of the tiles so far.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        """Begin with nothing.

        Args:
            shape: of the whole map, (..., H, W).
            device: where it is put together.
        """
        self.mean = torch.zeros(shape, device=device)
        self._weight = torch.zeros(shape[-2:], device=device)

    def add(self, tile: Tile, part: Tensor) -> None:
        """Put in what a tile `(..., h, w)` gave."""
        window, at = tile.window.to(part.device), tile.at
        self._weight[at] += window
        before = self.mean[(..., *at)]
        self.mean[(..., *at)] = before + (window / self._weight[at]) * (part - before)


def extent(tiles: list[Tile]) -> tuple[int, int]:
    """Height and width of the map that tiles cover."""
    return max(int(tile.rows.max()) for tile in tiles) + 1, max(int(tile.columns.max()) for tile in tiles) + 1


def shares(tiles: list[Tile]) -> list[Tensor]:
    """How much of each of its cells every tile counts `(h, w)`: together they count each cell of the map once."""
    total = torch.zeros(extent(tiles))
    for tile in tiles:
        total[tile.at] += tile.window
    return [tile.window / total[tile.at] for tile in tiles]


def _window(length: int) -> Tensor:
    hann = (torch.pi * (torch.arange(length, dtype=torch.float64) + 0.5) / length).sin().square()
    return hann.float() + FLOOR
