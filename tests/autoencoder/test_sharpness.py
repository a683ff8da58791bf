"""How sharp pictures are, as a loss: where an edge lies within a patch is free, and how soft it is is not."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autoencoder.training.sharpness import flatness_distance, sharpness_distance


def _noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) * 2 - 1


def _step(column: float, size: int = 64) -> Tensor:
    """A dark and a light half that meet at a column."""
    return (torch.arange(size).float() - column).clamp(-1, 1).expand(1, 3, size, size)


def _written_out(x: Tensor, target: Tensor) -> float:
    found = []
    for axis in (2, 3):
        maps = [image.diff(dim=axis) for image in (x, target)]
        height, width = maps[0].shape[-2:]
        differences = []
        for top in range(0, height - 7, 4):
            for left in range(0, width - 7, 4):
                patches = [each[..., top : top + 8, left : left + 8].flatten(2) for each in maps]
                ours, theirs = ((each.var(2, unbiased=False) + 1e-4).sqrt() for each in patches)
                differences.append((ours - theirs).abs().mean())
        found.append(torch.stack(differences).mean())
    return float(sum(found) / 2)


def test_it_is_its_formula_and_symmetric() -> None:
    x, target = _noise(2, 3, 21, 34), _noise(2, 3, 34, 21).transpose(2, 3) * 0.3
    assert float(sharpness_distance(x, target)) == pytest.approx(_written_out(x, target), rel=1e-4)
    assert float(sharpness_distance(target, x)) == pytest.approx(_written_out(x, target), rel=1e-4)
    assert float(sharpness_distance(x, x)) == 0


def test_where_an_edge_has_two_likely_places_a_sharp_guess_is_better_and_the_squared_error_says_a_soft_one() -> None:
    places = [_step(29.0), _step(31.5)]
    soft = (places[0] + places[1]) / 2

    def expected(guess: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> float:
        return float(sum(loss(guess, place) for place in places) / 2)

    assert expected(soft, F.mse_loss) < 0.6 * expected(places[0], F.mse_loss)
    assert expected(soft, sharpness_distance) > 1.5 * expected(places[0], sharpness_distance)


def test_faint_waves_on_flat_ground_cost_in_proportion() -> None:
    flat, waves = torch.zeros(1, 3, 64, 64), _noise(1, 3, 64, 64)
    one, two = (float(sharpness_distance(flat + height * waves, flat)) for height in (0.1, 0.2))
    assert 1.8 < two / one < 2.5


def test_flatness_counts_waves_on_flat_ground_and_neither_edges_nor_shades() -> None:
    waves, step = 0.02 * _noise(1, 3, 64, 64), _step(32.0)
    flat = torch.zeros_like(step)
    expected = float((waves.diff(dim=2)[..., :-1].abs() + waves.diff(dim=3)[:, :, :-1].abs()).mean()) / 2
    assert float(flatness_distance(flat + waves, flat)) == pytest.approx(expected, rel=1e-5)
    assert float(flatness_distance(step + 0.5, step)) == 0, "another colour is no wave"
    near = torch.zeros_like(step)
    near[..., 30:34] = waves[..., 30:34]
    assert float(flatness_distance(step + near, step)) == 0, "by an edge, everything goes"
    shade = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    assert float(flatness_distance(waves, shade)) == float(flatness_distance(waves, shade.mT)) == 0


@pytest.mark.parametrize("loss", [sharpness_distance, flatness_distance])
@pytest.mark.parametrize("size", [2, 3, 9])
def test_small_and_flat_pictures_have_a_finite_gradient(size: int, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    x = torch.zeros(1, 3, size, size, requires_grad=True)
    loss(x, _noise(1, 3, size, size)).backward()
    assert x.grad is not None and x.grad.isfinite().all()
