"""Noise that is added to be removed again: churn, and restarts."""

import math

import pytest
import torch
from gaussian import PROCESSES, Draws, GaussianDenoiser, Tabled, different_grids, last, no_noise, normal
from torch import Tensor

from ldm.process import Process
from ldm.samplers import SAMPLERS, heun, levels_of, restart
from ldm.samplers.edm import churn_levels, renoise
from ldm.samplers.step import levels_at
from ldm.schedules import karras, linspace, trailing

every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
churning = pytest.mark.parametrize("name", ["euler", "heun", "dpm2"])
CHURN = {"s_churn": 40.0, "s_tmin": 0.05, "s_tmax": 20.0}


def seeded(count: int) -> Draws:
    generator = torch.Generator().manual_seed(0)
    return Draws(lambda: torch.randn(count, generator=generator))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("euler", CHURN),
        ("heun", CHURN),
        ("dpm2", CHURN),
        ("restart", {"restarts": 3, "restart_steps": 40, "s_noise": 1.0}),
    ],
)
@every_process
def test_mean_and_variance_stay_right(process: Process, name: str, options: dict):
    noise, grid = seeded(10_000), karras(process, 600 if name == "euler" else 150)
    x = process.initial(noise(), grid[0])
    end = last(SAMPLERS[name](GaussianDenoiser(Tabled(process, grid)), x, grid, noise, **options))
    assert end.mean().item() == pytest.approx(0.7, abs=0.02)
    assert end.std().item() == pytest.approx(0.5, abs=0.02)


@every_process
def test_renoised_x_has_the_distribution_of_its_new_level(process: Process):
    x0, noise = 0.7 + 0.5 * normal(20_000, seed=1), seeded(20_000)
    low, high = levels_at(process, [1.5, 0.2])
    x = renoise(low.alpha * x0 + low.sigma * normal(20_000, seed=2), low, high, noise)
    assert x.mean().item() == pytest.approx(high.alpha * 0.7, abs=0.02)
    assert x.std().item() == pytest.approx(math.hypot(high.alpha * 0.5, high.sigma), abs=0.02)
    assert renoise(x, low, low, no_noise) is x


@every_process
def test_churn_lifts_by_gamma_within_its_range_and_never_above_the_start(process: Process):
    levels = levels_of(process, karras(process, 10))
    churned = churn_levels(process, levels, 2.0, 0.3, 4.0)
    for now, hat in zip(levels, churned, strict=False):
        if now.alpha > 0 and 0.3 <= now.sigma / now.alpha <= 4.0:
            assert hat.sigma / hat.alpha == pytest.approx(1.2 * now.sigma / now.alpha)
        else:
            assert hat is now
    assert churn_levels(process, levels, 100.0)[0] is levels[0]
    second = churn_levels(process, levels, 100.0)[1]  # gamma is at most sqrt(2) - 1
    assert second.lam == pytest.approx(levels[1].lam - math.log(2) / 2)


@churning
@every_process
def test_churn_outside_of_its_range_is_no_churn(process: Process, name: str):
    grid, denoise = trailing(process, 8), GaussianDenoiser(process)
    x = process.initial(normal(1, 3, 4, 4), grid[0])
    plain = last(SAMPLERS[name](denoise, x, grid, no_noise))
    assert torch.equal(last(SAMPLERS[name](denoise, x, grid, no_noise, s_churn=5.0, s_tmin=1e6)), plain)
    assert torch.equal(last(SAMPLERS[name](denoise, x, grid, no_noise, s_churn=5.0, s_tmax=1e-6)), plain)


@churning
@every_process
def test_churn_on_every_grid_is_finite(process: Process, name: str):
    for n in (1, 2, 10):
        for grid in different_grids(process, n):
            start = normal(1, 1, 2, 2)
            x, noise = process.initial(start, grid[0]), Draws(lambda start=start: start)
            end = last(SAMPLERS[name](GaussianDenoiser(process), x, grid, noise, s_churn=math.inf))
            assert torch.isfinite(end).all() and end.abs().max() < 200


@churning
def test_negative_churn_is_refused(name: str):
    process = PROCESSES["vp"]
    with pytest.raises(ValueError, match="s_churn=-1"):
        next(SAMPLERS[name](GaussianDenoiser(process), normal(1), trailing(process, 4), no_noise, s_churn=-1.0))


def sigmas(process: Process, times: list[float]) -> list[float]:
    return [level.sigma / level.alpha for level in levels_of(process, torch.tensor(times, dtype=torch.float64))]


@every_process
def test_restart_walks_the_grid_and_the_stretch_as_often_as_set(process: Process):
    grid = karras(process, 20)
    x = process.initial(normal(1, 3, 4, 4), grid[0])
    steps = list(restart(GaussianDenoiser(process), x, grid, Draws(lambda: x), restarts=2, restart_steps=4))
    assert [step.index for step in steps] == list(range(28)) and {step.total for step in steps} == {28}
    times = [step.t for step in steps]
    rhos = sigmas(process, grid[1:].tolist())
    low = 1 + min(range(19), key=lambda i: abs(math.log(rhos[i] / 0.1)))
    assert times[:low] == grid[1 : low + 1].tolist() and times[low + 8 :] == grid[low + 1 :].tolist()
    assert times[low : low + 4] == times[low + 4 : low + 8] and times[low + 3] == grid[low]
    ramp = [
        (2 ** (1 / 7) + i / 4 * (sigmas(process, [grid[low]])[0] ** (1 / 7) - 2 ** (1 / 7))) ** 7 for i in (1, 2, 3)
    ]
    assert sigmas(process, times[low : low + 3]) == pytest.approx(ramp)


@every_process
def test_restart_without_restarts_or_without_room_is_heun(process: Process):
    grid, denoise = linspace(process, 10), GaussianDenoiser(process)
    x = process.initial(normal(1, 3, 4, 4), grid[0])

    def same(steps, grid: Tensor) -> bool:
        return all(torch.equal(a.x, b.x) for a, b in zip(steps, heun(denoise, x, grid, no_noise), strict=True))

    assert same(restart(denoise, x, grid, no_noise, restarts=0), grid)
    assert same(restart(denoise, x, grid, no_noise, restart_steps=0), grid)
    assert same(restart(denoise, x, grid, no_noise, s_tmin=1e-9, s_tmax=1e-8), grid)
    assert same(restart(denoise, x, trailing(process, 1), no_noise), trailing(process, 1))


def test_restart_refuses_an_impossible_stretch():
    process = PROCESSES["vp"]
    with pytest.raises(ValueError, match=r"s_tmin=3.0 and s_tmax=2.0"):
        next(restart(GaussianDenoiser(process), normal(1), trailing(process, 4), no_noise, s_tmin=3.0))


def test_restart_forgets_earlier_errors():
    """Data of one value, an x that is off by a whole unit at sigma = 0.1: only a restart brings it back to the data."""
    process = PROCESSES["edm"]
    denoise = GaussianDenoiser(process, std=0.5)
    x = 0.7 + 3.0 + 0.1 * normal(4_000, seed=3)
    grid = torch.tensor([0.11, 0.1, 0.0], dtype=torch.float64)
    plain = last(heun(denoise, x, grid, no_noise)).mean().item()
    once, thrice = (last(restart(denoise, x, grid, seeded(4_000), restarts=k)).mean().item() for k in (1, 3))
    assert abs(thrice - 0.7) < abs(once - 0.7) < abs(plain - 0.7) / 1.5
