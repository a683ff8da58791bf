"""Editing walks: equal prompts leave the picture alone, others move it where the target lies, in every process."""

from collections.abc import Iterator

import pytest
import torch
from gaussian import PROCESSES, Draws, GaussianDenoiser, last, no_noise, normal
from torch import Tensor

from ldm.denoiser import Prediction
from ldm.noise import NoiseSource
from ldm.process import Process
from ldm.samplers import Step, ddim, ddim_inversion
from ldm.samplers.step import levels_at, levels_of
from ldm.schedules import trailing
from ldm.tasks.editing_walks import PromptPair, changed_cells, ddpm_edit, difference_edit

SHAPE = (3, 4, 4)
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


class Components:
    """The exact denoiser of data around six points in 48 dimensions: nonlinear, with basins of its own."""

    def __init__(self, process: Process, seed: int = 0, std: float = 0.4) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.process, self.std = process, std
        self.points = torch.randn(6, *SHAPE, generator=generator, dtype=torch.float64)

    def __call__(self, x: Tensor, t: float) -> Prediction:
        alpha, sigma = (level.item() for level in self.process.levels(t))
        variance = (alpha * self.std) ** 2 + sigma**2
        away = x[:, None] - alpha * self.points
        share = (-away.square().flatten(2).sum(2) / (2 * variance)).softmax(1)[..., None, None, None]
        slope = (share * away).sum(1) / variance
        return Prediction((share * self.points).sum(1) + alpha * self.std**2 * slope, sigma * slope)

    def drawn(self, count: int, seed: int = 1) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        near = self.points[torch.randint(6, (count,), generator=generator)]
        return near + self.std * torch.randn(near.shape, generator=generator, dtype=torch.float64)


def whole_way(process: Process, n: int, first: float = -4.0) -> Tensor:
    """n steps, even in lambda from `first`, and the last one to the picture."""
    times = process.time_of_lambda(torch.linspace(first, 5.0, n, dtype=torch.float64))
    return torch.cat([times, torch.tensor([float(process.terminal)], dtype=torch.float64)])


def seeded(seed: int = 0) -> NoiseSource:
    return NoiseSource([seed, seed + 1], SHAPE)


def edited(walk: object, process: Process, seed: int = 0, steps: int = 12, other: int = 0, **options: int) -> Tensor:
    """Pictures of one mixture carried to that of another seed."""
    source, target = Components(process), Components(process, other)
    z = source.drawn(2).float()
    grid = whole_way(process, steps)
    steps_of: Iterator[Step] = walk(PromptPair(target, source), z, grid, seeded(seed), **options)  # type: ignore[operator]
    return last(steps_of) - z


@every_process
@pytest.mark.parametrize("average", [1, 3])
def test_equal_prompts_keep_the_latents_to_the_bit(process: Process, average: int):
    assert not edited(difference_edit, process, average=average).any()


@every_process
def test_equal_prompts_replay_the_picture_with_its_own_noise(process: Process):
    assert edited(ddpm_edit, process).abs().max() < 1e-5


@every_process
@pytest.mark.parametrize("walk", [difference_edit, ddpm_edit])
def test_other_prompts_move_the_picture_among_the_targets(process: Process, walk: object):
    source, target = Components(process), Components(process, 7)
    z = source.drawn(2).float()
    moved = z + edited(walk, process, steps=40, other=7)
    distance = torch.cdist(moved.flatten(1).double(), target.points.flatten(1)).min(1).values
    assert (distance < 1.5 * target.std * 48**0.5).all()  # as near as the target's own pictures lie
    assert (torch.cdist(z.flatten(1).double(), target.points.flatten(1)).min(1).values > distance).all()


@every_process
def test_between_gaussians_it_is_the_difference_of_two_walks_at_order_one(process: Process):
    """Both slopes are linear there, so the difference of the walks from one place does not depend on the place."""
    z, errors = normal(2, *SHAPE, dtype=torch.float64), []
    for steps in (40, 80):
        target, source = GaussianDenoiser(process, mean=0.9), GaussianDenoiser(process, mean=0.2)
        grid = whole_way(process, steps)
        ends = grid[0].item(), grid[-1].item()
        exact = target.carry(z, *ends) - source.carry(z, *ends)
        moved = last(difference_edit(PromptPair(target, source), z, grid, Draws(lambda: torch.zeros_like(z))))
        errors.append((moved - z - exact).abs().max().item())
    assert 1.6 < errors[0] / errors[1] < 2.5 and errors[1] < 0.02


def test_processes_agree_where_their_levels_do():
    lams = [level.lam for level in levels_of(PROCESSES["vp"], whole_way(PROCESSES["vp"], 12))][:-1]
    found = {}
    for walk in (difference_edit, ddpm_edit):
        for name in ("vp", "edm", "flow"):
            process = PROCESSES[name]
            times = [level.t for level in levels_at(process, lams)]
            grid = torch.tensor([*times, float(process.terminal)], dtype=torch.float64)
            source, target = Components(process), Components(process, 7)
            z = source.drawn(2)
            found[name] = last(walk(PromptPair(target, source), z, grid, seeded()))
        for name in ("edm", "flow"):
            torch.testing.assert_close(found[name], found["vp"], atol=1e-5, rtol=1e-5)


def test_inversion_reaches_its_figures_in_50_steps():
    """35 dB with one guess a step, 55 with three, as measured for a grid even in lambda from alpha = 0.1."""
    process = PROCESSES["vp"]
    denoise = Components(process)
    z = denoise.drawn(16)
    top = float(torch.tensor(0.1 / 0.99**0.5).log())
    grid = whole_way(process, 50, top)
    decibels = {}
    for iterations in (1, 3, 10):
        noise = last(ddim_inversion(denoise, z, grid, no_noise, iterations=iterations))
        error = (last(ddim(denoise, noise, grid, no_noise)) - z).square().mean()
        decibels[iterations] = 10 * torch.log10((z.max() - z.min()) ** 2 / error).item()
    assert decibels[1] >= 35 and decibels[3] >= 55 and decibels[10] >= decibels[3], decibels


def test_more_iterations_never_end_worse_where_they_move_away():
    process = PROCESSES["vp"]
    denoise = Components(process, std=0.02)
    z, grid = denoise.drawn(8), trailing(process, 6)
    residuals = []
    for iterations in (1, 3, 12):
        noise = last(ddim_inversion(denoise, z, grid, no_noise, iterations=iterations))
        residuals.append((last(ddim(denoise, noise, grid, no_noise)) - z).square().mean().item())
    assert max(residuals[1:]) <= 1.05 * residuals[0], residuals


def test_changed_cells_are_the_fewest_that_hold_their_share():
    change = torch.zeros(1, 2, 8, 8)
    change[..., 2:4, 5:7] = 1.0
    change[..., 7, 0] = 0.01
    found = changed_cells(change, 0.5)
    assert found.shape == (1, 8, 8) and found[0, 2:4, 5:7].bool().all() and not found[0, 7, 0]
    counts = [int(changed_cells(normal(1, 2, 8, 8), share).sum()) for share in (0.1, 0.5, 0.9, 1.0)]
    assert counts == sorted(counts) and counts[-1] == 64
    assert not changed_cells(torch.zeros(1, 2, 8, 8), 1.0).any()
