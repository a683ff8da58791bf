"""Predictions that are drawn towards given latents."""

import pytest
import torch
from gaussian import PROCESSES, GaussianDenoiser, normal

from ldm.guidance.toward import Toward
from ldm.process import Process


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_x0_goes_towards_z_and_eps_follows(process: Process) -> None:
    denoise, z, x = GaussianDenoiser(process), normal(1, 4, 3, 3, seed=1), normal(2, 4, 3, 3)
    t = process.time_of_lambda(0.3).item()
    plain = denoise(x, t)
    for weight in (0.25, torch.full((1, 1, 3, 3), 0.25)):
        drawn = Toward(denoise, z, lambda t, w=weight: w)(x, t)
        torch.testing.assert_close(drawn.x0, plain.x0 + 0.25 * (z - plain.x0))
        alpha, sigma = (level.item() for level in process.levels(t))
        torch.testing.assert_close(alpha * drawn.x0 + sigma * drawn.eps, alpha * plain.x0 + sigma * plain.eps)


def test_nothing_and_all_are_exact_cell_by_cell() -> None:
    process = PROCESSES["vp_zero_snr"]
    denoise, z, x = GaussianDenoiser(process), normal(1, 4, 3, 3, seed=1), normal(2, 4, 3, 3)
    held = torch.zeros(1, 1, 3, 3)
    held[..., 0] = 1
    for t in (process.start, 500.0):
        plain, drawn = denoise(x, t), Toward(denoise, z, lambda t: held)(x, t)
        assert torch.equal(drawn.x0[..., 0], z.expand(2, -1, -1, -1)[..., 0])
        assert torch.equal(drawn.x0[..., 1:], plain.x0[..., 1:]) and torch.equal(drawn.eps[..., 1:], plain.eps[..., 1:])
    assert torch.equal(Toward(denoise, z, lambda t: 0.0)(x, 500.0).x0, plain.x0)
