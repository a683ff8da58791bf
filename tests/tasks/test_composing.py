"""Composing: kept bytes, covered cells, healed edges."""

import time

import numpy as np
import pytest
import torch

from ldm.tasks.composing import compose, cover, feathered, heal


def mask(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Zeros, ones and values between, anywhere."""
    return (torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) * 3 - 1).clamp(0, 1)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_bytes_are_the_originals_where_the_mask_is_zero(kind: type, channels: int) -> None:
    random = np.random.default_rng(0)
    first, second = (random.integers(0, np.iinfo(kind).max, (31, 17, channels), kind, endpoint=True) for _ in range(2))
    m = mask(31, 17)
    made = compose(first, second, m)
    assert made.dtype == kind
    assert np.array_equal(made[m == 0], first[m == 0]) and np.array_equal(made[m == 1], second[m == 1])
    low, high = np.minimum(first, second), np.maximum(first, second)
    assert (made >= low).all() and (made <= high).all()


def test_between_colours_are_weighted_by_their_alpha() -> None:
    first, second = np.array([[[200, 0, 0, 0]]], np.uint8), np.array([[[0, 100, 0, 200]]], np.uint8)
    assert compose(first, second, torch.full((1, 1), 0.5)).tolist() == [[[0, 100, 0, 100]]]


def test_no_stroke_is_too_thin_to_count() -> None:
    for place in range(32):
        m = torch.zeros(32, 32)
        m[place, (7 * place) % 32] = 0.2
        assert cover(m, 8, reach=0)[place // 8, (7 * place) % 32 // 8] == m.max()
        assert cover(m, 8).count_nonzero() >= 4  # itself and its neighbours
    assert cover(torch.zeros(32, 32), 8).count_nonzero() == 0


def test_a_feather_stays_on_its_own_side() -> None:
    m = torch.zeros(32, 32)
    m[8:24, 8:24] = 1
    soft = feathered(m, 4)
    assert torch.equal(soft > 0, m > 0) and soft[16, 16] == 1
    assert torch.allclose(soft[16, 8:14], torch.tensor([0.2, 0.4, 0.6, 0.8, 1, 1]))


@pytest.mark.parametrize("size", [5, 64, 257])
def test_a_constant_difference_is_taken_away(size: int) -> None:
    m = torch.zeros(size, size)
    m[1:-1, size // 3 : -1] = 1
    original = torch.full((3, size, size), 0.6)
    healed = heal(original, original - 0.1, m)
    assert (healed - original)[:, m > 0].abs().max() < 1e-3


def test_a_linear_difference_is_harmonic_and_taken_away() -> None:
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 96), torch.linspace(0, 1, 96), indexing="ij")
    m = torch.zeros(96, 96)
    m[20:70, 30:80] = 1
    plane = (0.1 * rows - 0.2 * columns).expand(3, -1, -1)
    assert (heal(plane, torch.zeros(3, 96, 96), m) - plane)[:, m > 0].abs().max() < 2 / 255


def test_colours_do_not_jump_at_the_edge() -> None:
    generator = torch.Generator().manual_seed(0)
    original = torch.full((3, 128, 128), 0.7)
    m = torch.zeros(128, 128)
    m[40:90, 30:110] = 1
    coarse = torch.randn(1, 3, 4, 4, generator=generator) * 0.1
    output = original + torch.nn.functional.interpolate(coarse, (128, 128), mode="bicubic")[0]
    healed = torch.where(m > 0, heal(original, output, m), original)

    def jump(x: torch.Tensor) -> float:
        across = (m[1:] != m[:-1]).expand(3, -1, -1)
        return (x[:, 1:] - x[:, :-1])[across].abs().mean().item()

    pasted = torch.where(m > 0, output, original)
    assert jump(healed) <= 1 / 255 < jump(pasted)


@pytest.mark.parametrize("cells", [4, 12, 40])
@pytest.mark.parametrize(("other", "most"), [(0.0, 1.5), (1.0, 2.0)], ids=["another light", "another picture"])
def test_the_edge_is_hardly_steeper_than_the_picture(cells: int, other: float, most: float) -> None:
    generator = torch.Generator().manual_seed(cells)

    def texture(cells: int) -> torch.Tensor:
        coarse = torch.rand(1, 3, cells, cells, generator=generator)
        return torch.nn.functional.interpolate(coarse, (128, 128), mode="bicubic")[0].clamp(0, 1)

    original = texture(cells)
    output = torch.lerp(original, texture(cells), other) + 0.2 * texture(4)
    m = torch.zeros(128, 128)
    m[30:70, 20:90] = m[60:100, 50:110] = 1

    def steepness(filled: torch.Tensor) -> float:
        made = torch.where(m > 0, filled, original)
        jumps = [made.diff(dim=axis + 1).abs()[:, m.diff(dim=axis) != 0].flatten() for axis in (0, 1)]
        return torch.cat(jumps).mean().item()

    own = torch.cat([original.diff(dim=axis).abs().flatten() for axis in (1, 2)]).mean().item()
    healed = steepness(heal(original, output, m))
    assert healed <= most * own and healed < steepness(output)


def test_a_full_or_empty_mask_heals_nothing_and_large_ones_take_a_moment() -> None:
    x, y = torch.rand(3, 9, 9), torch.rand(3, 9, 9)
    assert torch.equal(heal(x, y, torch.ones(9, 9)), y) and torch.equal(heal(x, y, torch.zeros(9, 9)), y)
    m = torch.zeros(1024, 1024)
    m[100:900, 100:900] = 1
    begun = time.perf_counter()
    heal(torch.rand(3, 1024, 1024), torch.rand(3, 1024, 1024), m)
    assert time.perf_counter() - begun < 20  # about 1 s; a hang would be minutes
