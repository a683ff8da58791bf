"""Singlestep DPM-Solvers beside diffusers' `DPMSolverSinglestepScheduler`, and the laws of their blocks."""

from itertools import product
from typing import Any

import pytest
import torch
from diffusers import DPMSolverSinglestepScheduler
from gaussian import PROCESSES, GaussianDenoiser, errors_of, even_in_lambda, last, no_noise, normal, slopes
from torch import Tensor

from ldm.denoiser import NetworkDenoiser
from ldm.process import DiscreteVP
from ldm.samplers.dpmpp import dpmpp_2m
from ldm.samplers.edm import dpm2, euler
from ldm.samplers.singlestep import block_sizes, dpm_fast, dpmpp_2s
from ldm.samplers.step import levels_of
from ldm.schedules import exponential, linspace, make_grid, trailing

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
WEIGHT = torch.randn(3, 3, 3, 3, generator=torch.Generator().manual_seed(0)) / 4


def network(x: Tensor, time: Tensor, conditioning: object = None) -> Tensor:
    """A smooth function of x and time; diffusers rounds timesteps on Karras sigmas, so both sides do."""
    shift = (time.round().float() / 300)[:, None, None, None]
    return torch.tanh(torch.nn.functional.conv2d(x, WEIGHT, padding=1) + shift.sin())


def start() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def theirs(n: int, **options: Any) -> list[Tensor]:
    """x after every step."""
    scheduler: Any = DPMSolverSinglestepScheduler(**STABLE_DIFFUSION, **options)
    scheduler.set_timesteps(n)
    x, walked = start(), []
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.expand(2)), t, x).prev_sample
        walked.append(x)
    return walked


def assert_same_walk(process: DiscreteVP, kind: str, grid: Tensor, wanted: list[Tensor], **options: Any) -> None:
    steps = list(dpmpp_2s(NetworkDenoiser(network, process, kind), start(), grid, no_noise, **options))
    assert len(steps) == len(wanted)
    for i, (step, x) in enumerate(zip(steps, wanted, strict=True)):
        torch.testing.assert_close(step.x, x, rtol=1e-4, atol=1e-4, msg=lambda m, i=i: f"step {i}: {m}")


@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(
    ("spacing", "kind"), [("linspace", "epsilon"), ("linspace", "v_prediction"), ("karras", "epsilon")]
)
@pytest.mark.parametrize("n", [3, 10, 11, 12, 13])
def test_diffusers(n: int, spacing: str, kind: str, order: int, solver_type: str):
    options = {"solver_order": order, "solver_type": solver_type, "prediction_type": kind}
    wanted = theirs(n, **options, use_karras_sigmas=spacing == "karras", lower_order_final=True)
    process = DiscreteVP()
    grid = make_grid(spacing, process, n, {"skip_last": True} if spacing == "linspace" else {})
    assert_same_walk(process, kind, grid, wanted, order=order, solver_type=solver_type)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("n", [10, 11, 12, 13])
def test_diffusers_that_stops_at_sigma_min(n: int, order: int):
    wanted = theirs(n, solver_order=order, final_sigmas_type="sigma_min")
    process = DiscreteVP(final_alpha_one=False)
    assert_same_walk(process, "epsilon", linspace(process, n, skip_last=True), wanted, order=order)


@pytest.mark.parametrize(
    ("process", "n", "order", "sizes"),
    [
        ("vp", 20, 3, [3, 3, 3, 3, 3, 3, 1, 1]),
        ("vp", 19, 3, [3, 3, 3, 3, 3, 3, 1]),
        ("vp", 18, 3, [3, 3, 3, 3, 3, 2, 1]),
        ("vp", 6, 2, [2, 2, 1, 1]),
        ("flow", 8, 2, [1, 2, 2, 2, 1]),
        ("flow", 2, 3, [1, 1]),
        ("flow", 1, 3, [1]),
        ("vp", 1, 3, [1]),
    ],
)
def test_blocks_fill_the_grid_and_leave_infinite_ends_alone(process: str, n: int, order: int, sizes: list[int]):
    chosen = PROCESSES[process]
    assert block_sizes(levels_of(chosen, trailing(chosen, n)), order) == sizes


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
def test_blocks_of_one_are_euler_and_blocks_of_two_are_dpm2_over_every_other_point(process):
    denoise = GaussianDenoiser(process)
    grid = even_in_lambda(process, 12)
    x = process.initial(normal(8, dtype=torch.float64), grid[0])
    for sample in (dpm_fast, dpmpp_2s):
        torch.testing.assert_close(
            last(sample(denoise, x, grid, no_noise, order=1)), last(euler(denoise, x, grid, no_noise))
        )
    whole = last(dpm2(denoise, x, grid[::2], no_noise))
    torch.testing.assert_close(last(dpm_fast(denoise, x, grid, no_noise, order=2)), whole)


@pytest.mark.parametrize(
    ("name", "options"), product(["dpm_fast", "dpmpp_2s"], [{"order": 1}, {"order": 2}, {"order": 3}])
)
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
def test_error_falls_at_the_order_of_the_blocks(name: str, options: dict, process):
    counts = (42, 60, 90, 132)
    errors = errors_of(name, process, even_in_lambda, counts, **options)
    assert slopes(errors, counts) == pytest.approx([options["order"]] * 3, abs=0.25)


def test_dpm_fast_is_the_nearest_of_one_call_a_step_on_its_own_schedule():
    process = PROCESSES["vp"]
    grid, denoise = exponential(process, 22), GaussianDenoiser(process)
    x = process.initial(normal(8, dtype=torch.float64), grid[0])
    exact = denoise.carry(x, grid[0].item(), grid[-1].item())
    errors = {
        sample: (last(sample(denoise, x, grid, no_noise)) - exact).norm().item()
        for sample in (dpm_fast, dpmpp_2m, euler)
    }
    assert errors[dpm_fast] < 0.5 * errors[dpmpp_2m] < errors[euler]


@pytest.mark.parametrize("sample", [dpm_fast, dpmpp_2s])
def test_order_out_of_range_is_refused(sample):
    process = PROCESSES["vp"]
    with pytest.raises(ValueError, match="order=4 must be a whole number from 1 to 3"):
        next(sample(GaussianDenoiser(process), normal(1), trailing(process, 4), no_noise, order=4))


def test_unknown_solver_type_offers_the_nearest():
    process = PROCESSES["vp"]
    with pytest.raises(ValueError, match="unknown solver_type 'huen'; did you mean 'heun'"):
        next(dpmpp_2s(GaussianDenoiser(process), normal(1), trailing(process, 4), no_noise, solver_type="huen"))
