"""Tiles cover every cell of every map, and what they show comes back when they are blended."""

import random
from itertools import pairwise

import pytest
import torch

from autoencoder.tiles import Blend, Tiling


def cases(count: int) -> list[tuple[int, int, Tiling, tuple[float, float]]]:
    """Sizes 8 to 200, tiles, overlaps up to all but one cell, axes that wrap, and moved borders."""
    lot, found = random.Random(0), []
    for _ in range(count):
        size = lot.randint(1, 80)
        tiling = Tiling(size, lot.randint(0, size - 1), (lot.random() < 0.3, lot.random() < 0.3))
        if size - tiling.overlap >= 4:  # fewer make thousands of tiles
            found.append((lot.randint(8, 200), lot.randint(8, 200), tiling, (lot.random(), lot.random())))
    return found


def test_every_map_comes_back_from_its_tiles() -> None:
    for height, width, tiling, shift in cases(300):
        x = torch.randn(1, 1, height, width, generator=torch.Generator().manual_seed(height))
        for moved in ((0.0, 0.0), shift):
            blend = Blend((1, 1, height, width), x.device)
            for tile in tiling.tiles(height, width, moved):
                blend.add(tile, tile.cut(x))
            assert bool((blend._weight > 0).all())
            assert torch.equal(blend.mean, x)


def test_neighbours_share_what_they_should_and_all_tiles_have_one_size() -> None:
    for height, _, tiling, (shift, _) in cases(300):
        for moved in (0.0, shift):
            spans = [tile.rows for tile in tiling.tiles(height, 1, (moved, 0.0))]
            assert {len(span) for span in spans} == {min(tiling.size, height)}
            ring = [*spans, spans[0]] if tiling.wraps[0] and len(spans) > 1 else spans
            for one, other in pairwise(ring):
                assert len(set(one.tolist()) & set(other.tolist())) >= tiling.overlap
            if not tiling.wraps[0]:
                assert spans[0][0] == 0 and spans[-1][-1] == height - 1


@pytest.mark.parametrize(("length", "size", "overlap", "count"), [(100, 32, 8, 4), (64, 64, 0, 1), (65, 64, 32, 2)])
def test_there_are_no_more_tiles_than_needed(length: int, size: int, overlap: int, count: int) -> None:
    assert len(Tiling(size, overlap).tiles(length, size)) == count


def test_a_tile_in_pixels_is_the_tile_in_cells() -> None:
    cells = torch.arange(7 * 9).reshape(1, 1, 7, 9)
    pixels = cells.repeat_interleave(4, 2).repeat_interleave(4, 3)
    for tile in Tiling(5, 2, (True, False)).tiles(7, 9):
        wanted = tile.cut(cells).repeat_interleave(4, 2).repeat_interleave(4, 3)
        assert torch.equal(tile.scaled(4).cut(pixels), wanted)


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (8, 8), (8, 9), (8, -1)])
def test_impossible_tiles_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(ValueError, match=r"use "):
        Tiling(size, overlap)
