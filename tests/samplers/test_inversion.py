"""DDIM upwards: from the picture to the noise that it is drawn from, and back."""

import pytest
import torch
from diffusers import DDIMInverseScheduler
from gaussian import PROCESSES, GaussianDenoiser, different_grids, even_in_lambda, last, no_noise, normal, slopes
from torch import Tensor

from ldm.denoiser import NetworkDenoiser
from ldm.process import DiscreteVP, Process
from ldm.samplers import ddim, ddim_inversion, make_sampler
from ldm.schedules import leading, linspace, trailing

COUNTS = (20, 40, 80, 160)
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


def data() -> Tensor:
    """Pictures of the data that `GaussianDenoiser` knows."""
    return 0.7 + 0.5 * normal(2, 3, 4, 4, dtype=torch.float64)


@every_process
def test_round_trip_error_falls_at_order_one(process: Process):
    errors, x = [], data()
    for n in COUNTS:
        grid, denoise = even_in_lambda(process, n), GaussianDenoiser(process)
        noise = last(ddim_inversion(denoise, x, grid, no_noise))
        errors.append((last(ddim(denoise, noise, grid, no_noise)) - x).abs().max().item())
    assert slopes(errors, COUNTS) == pytest.approx([1] * 3, abs=0.25)


@every_process
def test_inversion_follows_the_ode_at_order_one(process: Process):
    errors, x = [], data()
    for n in COUNTS:
        grid, denoise = even_in_lambda(process, n), GaussianDenoiser(process)
        exact = denoise.carry(x, grid[-1].item(), grid[0].item())
        errors.append((last(ddim_inversion(denoise, x, grid, no_noise)) - exact).abs().max().item())
    assert slopes(errors, COUNTS) == pytest.approx([1] * 3, abs=0.25)


@pytest.mark.parametrize("make", [trailing, linspace])
@every_process
def test_more_iterations_make_the_round_trip_exact_between_infinite_ends_too(process: Process, make):
    grid, denoise, x = make(process, 12), GaussianDenoiser(process), data()
    errors = []
    for iterations in (1, 4, 60):
        noise = last(ddim_inversion(denoise, x, grid, no_noise, iterations=iterations))
        errors.append((last(ddim(denoise, noise, grid, no_noise)) - x).abs().max().item())
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-5


@every_process
def test_inversion_of_drawn_pictures_gives_back_their_noise(process: Process):
    grid, denoise = trailing(process, 12), GaussianDenoiser(process)
    noise = process.initial(normal(2, 3, 4, 4, dtype=torch.float64), grid[0])
    steps = list(ddim(denoise, noise, grid, no_noise))
    undone = list(ddim_inversion(denoise, steps[-1].x, grid, no_noise, iterations=60))
    torch.testing.assert_close(undone[-1].x, noise, rtol=1e-5, atol=1e-5)
    for back, forth in zip(undone[:-1], steps[-2::-1], strict=True):
        assert back.t == forth.t
        torch.testing.assert_close(back.x, forth.x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 50])
@pytest.mark.parametrize(
    "process", [*PROCESSES.values(), DiscreteVP(final_alpha_one=False)], ids=[*PROCESSES, "vp_final"]
)
def test_it_climbs_every_grid_and_stays_finite(process: Process, n: int):
    for grid in different_grids(process, n):
        steps = list(ddim_inversion(GaussianDenoiser(process), data(), grid, no_noise))
        assert [step.t for step in steps] == grid.flip(0)[1:].tolist()
        assert [step.index for step in steps] == list(range(n)) and {step.total for step in steps} == {n}
        assert torch.isfinite(steps[-1].x).all()


@pytest.mark.parametrize("process", [DiscreteVP(), DiscreteVP(final_alpha_one=False)], ids=["alpha one", "table"])
@pytest.mark.parametrize("n", [4, 10, 20])
def test_one_iteration_is_diffusers_inverse_scheduler(process: DiscreteVP, n: int):
    # theirs reads v and x0 with the levels of the wrong time (the less noisy one), so only epsilon is compared
    weight = normal(3, 3, 3, 3) / 4

    def network(x: Tensor, time: Tensor, conditioning: object = None) -> Tensor:
        return torch.tanh(torch.nn.functional.conv2d(x, weight, padding=1) + (time / 300).sin()[:, None, None, None])

    scheduler = DDIMInverseScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=process.final_alpha_one,
        steps_offset=1,
    )
    scheduler.set_timesteps(n)
    x = start = normal(2, 3, 8, 8, seed=1)
    steps = ddim_inversion(NetworkDenoiser(network, process, "epsilon"), start, leading(process, n, offset=1), no_noise)
    for t, step in zip(scheduler.timesteps, steps, strict=True):
        x = scheduler.step(network(x, t.expand(2).float()), t, x).prev_sample
        torch.testing.assert_close(step.x, x, rtol=1e-4, atol=1e-4)


def test_it_is_made_by_name_and_refuses_no_iterations():
    process, x = PROCESSES["vp"], data()
    grid, denoise = trailing(process, 5), GaussianDenoiser(process)
    got = last(make_sampler("ddim_inversion", {"iterations": 2})(denoise, x, grid, no_noise))
    assert torch.equal(got, last(ddim_inversion(denoise, x, grid, no_noise, iterations=2))) and denoise.calls == 20
    with pytest.raises(ValueError, match="iterations=0"):
        next(ddim_inversion(denoise, x, grid, no_noise, iterations=0))
