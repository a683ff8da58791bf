"""Grids: published tables, and the law that each descends strictly from noise to the terminal point."""

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from ldm.process import EDM, DiscreteVP, Flow, Process
from ldm.schedules import MOST_NOISE, SCHEDULES, karras, leading, linspace, make_grid, trailing

PROCESSES = {
    "vp": DiscreteVP(),
    "vp_zero_snr": DiscreteVP(zero_terminal_snr=True),
    "vp_final_alpha": DiscreteVP(final_alpha_one=False),
    "flow": Flow(),
    "flow_shift_3": Flow(3.0),
    "edm": EDM(),
}
COUNTS = (1, 2, 3, 4, 9, 10, 27, 50, 999, 1000)
STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}

# What diffusers 0.42.1 answers to set_timesteps(n) for Stable Diffusion's schedule with steps_offset 1.
# "skip_last" is DPMSolverMultistepScheduler's own reading of the same words, the others are DDIMScheduler's.
TIMESTEPS = [
    ("leading", {"offset": 1}, [751, 501, 251, 1]),
    ("leading", {"offset": 1}, [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]),
    ("leading", {"offset": 1}, list(range(951, 0, -50))),
    ("leading", {"offset": 1, "skip_last": True}, [801, 601, 401, 201]),
    ("leading", {"offset": 1, "skip_last": True}, [901, 811, 721, 631, 541, 451, 361, 271, 181, 91]),
    ("leading", {"offset": 1, "skip_last": True}, list(range(941, 47, -47))),
    ("linspace", {}, [999, 666, 333, 0]),
    ("linspace", {}, [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]),
    (
        "linspace",
        {},
        [999, 946, 894, 841, 789, 736, 684, 631, 578, 526, 473, 421, 368, 315, 263, 210, 158, 105, 53, 0],
    ),
    ("linspace", {"skip_last": True}, [999, 749, 500, 250]),
    ("linspace", {"skip_last": True}, [999, 899, 799, 699, 599, 500, 400, 300, 200, 100]),
    (
        "linspace",
        {"skip_last": True},
        [999, 949, 899, 849, 799, 749, 699, 649, 599, 549, 500, 450, 400, 350, 300, 250, 200, 150, 100, 50],
    ),
    ("trailing", {}, [999, 749, 499, 249]),
    ("trailing", {}, [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]),
    ("trailing", {}, list(range(999, 0, -50))),
    # the pairs of diffusers' issue 9261, DDPM with 13 steps
    ("trailing", {}, [999, 922, 845, 768, 691, 614, 537, 461, 384, 307, 230, 153, 76]),
]
# Karras et al. 2022, eq. 5 with rho 7, computed by the formula in float64.
KARRAS_EDM_10 = [
    79.99999999999999, 42.41518931851267, 21.10867673619376, 9.72320135526013, 4.066123602953759, 1.501741979068008,
    0.46997905799774714, 0.11663856352517864, 0.020435334553438746, 0.002, 0.0,
]  # fmt: skip
# EulerDiscreteScheduler, use_karras_sigmas, 10 steps of Stable Diffusion's schedule (diffusers 0.42.1, float32).
KARRAS_SIGMAS_10 = [
    14.6146469, 9.1029367, 5.4784012, 3.168611, 1.7494231, 0.9140765, 0.4469209, 0.2013999, 0.081911, 0.0291675,
]  # fmt: skip
KARRAS_TIMES_10 = [999.0, 916.2841, 815.045, 687.1533, 523.199, 327.1472, 145.939, 40.8569, 6.7324, 0.0]
# The same with timestep_spacing="leading": there the range is that of the spaced timesteps, 8.390687 to 0.0413145.
KARRAS_TIMES_LEADING_10 = [901.0, 815.0175, 710.5005, 581.6552, 426.5304, 260.243, 121.141, 40.2724, 9.3015, 1.0]
# EulerDiscreteScheduler, rescale_betas_zero_snr, trailing, 5 steps; its first sigma is 4096 where ours is infinite.
ZERO_SNR_SIGMAS_5 = [4095.999755859375, 7.410706996917725, 2.604856014251709, 1.241375207901001, 0.5947520732879639]


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_grid_descends_strictly_to_the_terminal_point(name: str, process: Process, n: int):
    grid = make_grid(name, process, n)
    assert grid.dtype == torch.float64 and grid.shape == (n + 1,)
    assert (grid.diff() < 0).all()
    assert grid[-1] == process.terminal and grid[0] <= process.start
    assert torch.isfinite(process.model_time(grid[:-1])).all()


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
@pytest.mark.parametrize("name", ["trailing", "linspace", "karras"])
def test_all_but_leading_begin_at_the_noisiest_time(name: str, process: Process, n: int):
    assert make_grid(name, process, n)[0].item() == pytest.approx(process.start, abs=0, rel=1e-15)


@pytest.mark.parametrize(("name", "options", "timesteps"), TIMESTEPS)
def test_published_timesteps(name: str, options: dict, timesteps: list[int]):
    grid = make_grid(name, DiscreteVP(), len(timesteps), options)
    assert grid.tolist() == [*timesteps, -1]


@pytest.mark.parametrize("n", [n for n in COUNTS if n < 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_timesteps_are_those_of_diffusers_for_every_count(spacing: str, n: int):
    ddim, solver, euler = (
        each(**STABLE_DIFFUSION, timestep_spacing=spacing)
        for each in (DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler)
    )
    own: dict[str, int | bool] = {"offset": 1} if spacing == "leading" else {}
    skip = {} if spacing == "trailing" else {"skip_last": True}
    exact = {"rounded": False} if spacing == "linspace" else {}
    for scheduler, options in ((ddim, own), (solver, own | skip), (euler, own | exact)):
        if n == 1 and spacing == "linspace" and scheduler is not solver:
            continue  # diffusers' single step begins at timestep 0, where nothing is left to denoise; ours at 999
        scheduler.set_timesteps(n)
        wanted = scheduler.timesteps.double()
        wanted = wanted - (wanted[0] - 999).clamp(min=0)  # its leading 999 steps begin at 1000, outside the table
        got = make_grid(spacing, DiscreteVP(), n, options)[:-1]
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)


def test_a_thousand_leading_steps_with_offset_stay_in_the_table():
    # diffusers begins at 1000 and raises IndexError (issue 10003)
    assert leading(DiscreteVP(), 1000, offset=1).tolist() == list(range(999, -2, -1))


def test_linspace_goes_on_to_its_own_next_entry():
    # diffusers' DDIM steps from 999 to 899 on this grid (issues 11347, 12633)
    assert linspace(DiscreteVP(), 10)[:2].tolist() == [999, 888]


def test_unrounded_linspace_is_diffusers_euler():
    scheduler = EulerDiscreteScheduler(**STABLE_DIFFUSION)
    scheduler.set_timesteps(20)
    np.testing.assert_allclose(linspace(DiscreteVP(), 20, rounded=False)[:-1], scheduler.timesteps.numpy(), atol=1e-4)


def test_karras_on_edm_is_equation_5():
    np.testing.assert_allclose(karras(EDM(), 10).numpy(), KARRAS_EDM_10, rtol=1e-12)


def test_karras_on_stable_diffusion_is_diffusers_euler():
    process = DiscreteVP()
    grid = karras(process, 10)
    np.testing.assert_allclose(process.log_snr_half(grid[:-1]).neg().exp(), KARRAS_SIGMAS_10, rtol=1e-4)
    np.testing.assert_allclose(process.model_time(grid[:-1]), KARRAS_TIMES_10, atol=5e-3)


def test_karras_takes_another_range():
    got = karras(DiscreteVP(), 10, sigma_min=0.0413145, sigma_max=8.390687)
    np.testing.assert_allclose(got[:-1], KARRAS_TIMES_LEADING_10, atol=5e-3)


def test_karras_rho_one_is_even_in_sigma():
    torch.testing.assert_close(karras(EDM(), 5, rho=1.0)[:-1], torch.linspace(80, 0.002, 5, dtype=torch.float64))


@pytest.mark.parametrize("name", ["vp_zero_snr", "flow"])
def test_karras_from_an_infinite_start_goes_on_from_most_noise(name: str):
    process = PROCESSES[name]
    grid, finite = karras(process, 10), karras(process, 10, sigma_max=MOST_NOISE)
    assert grid[0] == process.start and finite[0] < process.start
    assert torch.equal(grid[1:], finite[1:])
    np.testing.assert_allclose(process.log_snr_half(finite[0]).neg().exp(), MOST_NOISE, rtol=1e-9)


def test_zero_snr_trailing_begins_at_pure_noise():
    process = DiscreteVP(zero_terminal_snr=True)
    grid = trailing(process, 5)
    assert grid.tolist() == [999, 799, 599, 399, 199, -1]
    sigmas = process.log_snr_half(grid[:-1]).neg().exp()
    assert sigmas[0] == torch.inf
    np.testing.assert_allclose(sigmas[1:], ZERO_SNR_SIGMAS_5[1:], rtol=1e-4)


def test_flow_linspace_is_diffusers_flow_matching():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(28)
    process = Flow()
    np.testing.assert_allclose(process.sigma(linspace(process, 28)), scheduler.sigmas.numpy(), atol=1e-6)


def test_flow_trailing_is_the_grid_of_flux():
    np.testing.assert_allclose(trailing(Flow(), 7)[:-1], np.linspace(1, 1 / 7, 7))


@pytest.mark.parametrize(
    ("name", "n", "options", "words"),
    [
        ("trailling", 5, {}, ["unknown schedule 'trailling'", "did you mean 'trailing'"]),
        ("leading", 5, {"ofset": 1}, ["schedule 'leading'", "'ofset'", "did you mean 'offset'"]),
        ("trailing", 0, {}, ["num_inference_steps=0"]),
        ("karras", -3, {}, ["num_inference_steps=-3"]),
        ("linspace", 1001, {}, ["num_inference_steps=1001", "1 to 1000"]),
        ("leading", 1000, {"skip_last": True}, ["num_inference_steps=1000", "1 to 999"]),
        ("leading", 5, {"offset": -1}, ["offset=-1"]),
        ("karras", 5, {"rho": 0.0}, ["rho=0"]),
        ("karras", 5, {"sigma_min": 20.0}, ["sigma_min=20"]),
        ("karras", 5, {"sigma_max": 15.0}, ["sigma_max=15", "14.6146"]),
    ],
)
def test_errors_name_the_field_and_the_mend(name: str, n: int, options: dict, words: list[str]):
    with pytest.raises(ValueError) as error:
        make_grid(name, DiscreteVP(), n, options)
    assert all(word in str(error.value) for word in words), error.value
