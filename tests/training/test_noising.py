"""Training noise: variance and covariance of each kind, and that a sample's draws are its own."""

import pytest
import torch

from ldm.training.batches.sample_order import generator_for
from ldm.training.diffusion.noising import draw_normal, perturbed, with_offset, with_pyramid

N = 4000
KINDS = {"offset": (with_offset, 0.3), "pyramid": (with_pyramid, 0.7), "perturbed": (perturbed, 0.1)}


def _draw(kind: str, strength: float, shape=(2, 4, 4), samples: range = range(N)) -> torch.Tensor:
    generators = [generator_for(0, i, 1) for i in samples]
    return KINDS[kind][0](draw_normal(shape, generators), generators, strength)


def _covariance(noise: torch.Tensor) -> torch.Tensor:
    flat = noise.flatten(1).double()
    return flat.T @ flat / len(flat)


def _close(measured: torch.Tensor, exact: torch.Tensor) -> None:
    """Within five standard errors of N normal draws."""
    torch.testing.assert_close(measured, exact.double(), rtol=0, atol=5 * 2**0.5 / N**0.5)


def test_offset_noise_is_white_and_a_constant_per_channel():
    same_channel = torch.block_diag(torch.ones(16, 16), torch.ones(16, 16))
    _close(_covariance(_draw("offset", 0.3)), torch.eye(32) + 0.09 * same_channel)


def test_input_perturbation_adds_its_variance():
    _close(_covariance(_draw("perturbed", 0.5)), 1.25 * torch.eye(32))


def test_pyramid_noise_is_white_noise_of_every_halved_resolution_with_variance_one():
    """Cells that share a block of 2^i share discount^2i of the variance."""
    place = torch.arange(32)
    channel, row, column = place // 16, place // 4 % 4, place % 4
    covariance = torch.zeros(32, 32)
    for level in range(3):
        names = channel * 100 + (row >> level) * 10 + (column >> level)
        covariance += 0.7 ** (2 * level) * (names[:, None] == names[None, :])
    _close(_covariance(_draw("pyramid", 0.7)), covariance / covariance[0, 0])


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (1, 8, 3)])
def test_pyramid_noise_has_any_shape_and_unit_variance(shape):
    noise = _draw("pyramid", 0.9, shape)
    assert noise.shape == (N, *shape)
    _close(noise.double().square().mean(0), torch.ones(shape))


@pytest.mark.parametrize("kind", KINDS)
def test_zero_leaves_the_noise_and_the_generators_as_they_are(kind):
    generators = [generator_for(0, i, 1) for i in range(3)]
    noise = draw_normal((2, 4, 4), generators)
    states = [generator.get_state() for generator in generators]
    assert KINDS[kind][0](noise, generators, 0.0) is noise
    assert all(torch.equal(generator.get_state(), state) for generator, state in zip(generators, states, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_draws_the_same_in_any_batch(kind):
    whole, strength = _draw(kind, KINDS[kind][1], samples=range(5)), KINDS[kind][1]
    assert torch.equal(whole[3:4], _draw(kind, strength, samples=range(3, 4)))
