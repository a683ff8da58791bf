"""The error of every sampler on Gaussian data falls at its stated order, for VP, zero-SNR VP, flow and EDM alike."""

import math

import pytest
import torch
from gaussian import (
    PROCESSES,
    GaussianDenoiser,
    begun_gently,
    deterministic,
    errors_of,
    even_in_angle,
    even_in_lambda,
    last,
    no_noise,
    normal,
    slopes,
)

from ldm.process import Process
from ldm.samplers import SAMPLER_TABLE, SAMPLERS
from ldm.schedules import linspace, trailing

COUNTS = (42, 60, 90, 132)  # multiples of 6: whole blocks of the singlestep solvers
ODE_SAMPLERS = [name for name in SAMPLERS if not SAMPLER_TABLE[name].stochastic or deterministic(name)]
BLOCKS = ("dpm_fast", "dpmpp_2s")
"""Samplers whose last block is smaller, and of lower order, where their blocks do not fit the number of steps."""
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


def test_all_but_two_samplers_solve_the_ode_without_noise():
    assert set(SAMPLERS) - set(ODE_SAMPLERS) == {"ddpm", "lcm"}


@every_process
@pytest.mark.parametrize("name", ODE_SAMPLERS)
def test_error_falls_at_the_stated_order(name: str, process: Process):
    errors = errors_of(name, process, even_in_lambda, COUNTS, **deterministic(name))
    assert slopes(errors, COUNTS) == pytest.approx([SAMPLER_TABLE[name].order] * 3, abs=0.25)


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("lms", {"order": 1}, 1), ("lms", {"order": 2}, 2), ("lms", {"order": 3}, 3), ("lms", {"order": 4}, 4),
        ("deis", {"order": 1}, 1), ("deis", {"order": 2}, 2), ("deis", {"order": 3}, 3),
        ("ipndm_v", {"order": 3}, 3), ("ipndm_v", {"order": 4}, 4),
        ("unipc", {"order": 1, "lower_order_final": False}, 2),
        ("unipc", {"order": 2, "lower_order_final": False}, 3),
        ("unipc", {"order": 2, "lower_order_final": False, "solver_type": "bh1"}, 3),
        ("unipc", {"order": 3, "lower_order_final": False}, 4),
        ("unipc", {"order": 3, "lower_order_final": False, "solver_type": "bh1"}, 4),
    ],
)  # fmt: skip
@pytest.mark.parametrize("process", [PROCESSES["vp"], PROCESSES["flow"]], ids=["vp", "flow"])
def test_multistep_samplers_have_their_full_order_after_a_gentle_start(
    name: str, options: dict, order: int, process: Process
):
    counts = (96, 128, 192, 256)
    errors = errors_of(name, process, begun_gently, counts, **options)
    assert slopes(errors, counts) == pytest.approx([order] * 3, abs=0.25)


@pytest.mark.parametrize(
    ("process", "make"),
    [
        (PROCESSES["flow"], linspace),
        (PROCESSES["edm"], linspace),
        (PROCESSES["vp_zero_snr"], even_in_angle),
    ],
    ids=["flow, noise to picture", "edm, noise to picture", "vp from zero snr"],
)
@pytest.mark.parametrize("name", [name for name in ODE_SAMPLERS if not SAMPLER_TABLE[name].stochastic])
def test_order_survives_the_infinite_ends(name: str, process: Process, make):
    # next to alpha = 0 steps in lambda and rho are long: for two, the error is of n^-2 log n
    counts = (31, 49, 61, 97) if name in BLOCKS else (32, 48, 64, 96)
    errors = errors_of(name, process, make, counts)
    if name in ("plms", "deis", "dpmpp_2s"):
        errors = [error / math.log(n) for error, n in zip(errors, counts, strict=True)]
    falls = [fall for fall, error in zip(slopes(errors, counts), errors, strict=False) if error > 2e-5]
    # below that the step from EDM's least noise, 0.002, to none is all there is
    assert len(falls) >= 2 and min(falls) > min(SAMPLER_TABLE[name].order, 2) - 0.25


@pytest.mark.parametrize("name", ["plms", "lms", "deis", "ipndm", "ipndm_v", "gradient_estimation", "er_sde"])
@pytest.mark.parametrize("process", ["vp_zero_snr", "flow"])
def test_a_step_from_pure_noise_is_ddims_and_forgotten(name: str, process: str):
    """The slope at alpha = 0, where sigma / alpha is infinite, has no place among those of a multistep rule."""
    chosen = PROCESSES[process]
    grid, denoise = linspace(chosen, 20), GaussianDenoiser(chosen)
    assert chosen.alpha(grid[0]) == 0
    x = chosen.initial(normal(8, dtype=torch.float64), grid[0])
    first = last(SAMPLERS["ddim"](denoise, x, grid[:2], no_noise))
    options = deterministic(name)
    apart = last(SAMPLERS[name](denoise, first, grid[1:], no_noise, **options))
    torch.testing.assert_close(
        last(SAMPLERS[name](denoise, x, grid, no_noise, **options)),
        apart,
        rtol=0,
        atol=0 if name != "er_sde" else 1e-12,
    )


@pytest.mark.parametrize("n", [8, 16])
def test_plms_from_pure_noise_is_far_better_than_ddim(n: int):
    chosen = PROCESSES["vp_zero_snr"]
    grid, denoise = trailing(chosen, n), GaussianDenoiser(chosen, mean=0.0, std=5.0)
    x = chosen.initial(normal(8, dtype=torch.float64), grid[0])
    exact = denoise.carry(x, grid[0].item(), grid[-1].item())
    plms, ddim = ((last(SAMPLERS[name](denoise, x, grid, no_noise)) - exact).norm() for name in ("plms", "ddim"))
    assert plms < 0.05 * ddim
