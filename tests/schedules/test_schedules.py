"""Grids: published tables, and the law that each descends strictly from noise to the terminal point."""

import re

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
from ldm.schedules import (
    MOST_NOISE,
    SCHEDULES,
    align_your_steps,
    beta,
    custom_sigmas,
    custom_times,
    exponential,
    karras,
    kl_optimal,
    leading,
    linspace,
    make_grid,
    normal,
    polyexponential,
    sgm_uniform,
    simple,
    trailing,
)
from ldm.schedules.beta_distribution import beta_quantile

PROCESSES = {
    "vp": DiscreteVP(),
    "vp_zero_snr": DiscreteVP(zero_terminal_snr=True),
    "vp_final_alpha": DiscreteVP(final_alpha_one=False),
    "vp_cosine": DiscreteVP("squaredcos_cap_v2"),
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
KARRAS_TIMES_TRAILING_10 = [
    999.0, 942.2802, 877.306, 801.6967, 712.3044, 605.5546, 479.508, 339.4757, 204.0789, 99.0,
]  # fmt: skip
# EulerDiscreteScheduler with use_exponential_sigmas, 10 steps.
EXPONENTIAL_SIGMAS_10 = [
    14.6146469, 7.324883, 3.6712425, 1.8400323, 0.922227, 0.4622216, 0.2316661, 0.1161114, 0.0581952, 0.0291675,
]  # fmt: skip
EXPONENTIAL_TIMES_10 = [999.0, 874.742, 723.7019, 538.0669, 329.7677, 152.721, 52.3825, 14.1525, 2.9507, 0.0]
# LCMScheduler with its 50 original steps.
DISTILLED = [
    [999, 759, 499, 259],
    [999, 899, 799, 699, 599, 499, 399, 299, 199, 99],
    [999, 959, 899, 859, 799, 759, 699, 659, 599, 559, 499, 459, 399, 359, 299, 259, 199, 159, 99, 59],
]
# Sabour et al. 2024, "Align Your Steps", quick-start guide: the timesteps that belong to the sigmas of the 10 steps.
ALIGNED_TIMES = {
    "sd15": [999, 850, 736, 645, 545, 455, 343, 233, 124, 24],
    "sdxl": [999, 845, 730, 587, 443, 310, 193, 116, 53, 13],
}
ALIGNED_SIGMAS_SD15 = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029]
# EulerDiscreteScheduler, rescale_betas_zero_snr, trailing, 5 steps; its first sigma is 4096 where ours is infinite.
ZERO_SNR_SIGMAS_5 = [4095.999755859375, 7.410706996917725, 2.604856014251709, 1.241375207901001, 0.5947520732879639]


every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


@every_process
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_grid_descends_strictly_to_the_terminal_point(name: str, process: Process):
    for n in COUNTS:
        grid = make_grid(name, process, n)
        assert grid.dtype == torch.float64 and grid.shape == (n + 1,)
        assert (grid.diff() < 0).all(), n
        assert grid[-1] == process.terminal and grid[0] <= process.start
        assert torch.isfinite(process.model_time(grid[:-1])).all()


@every_process
@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "leading"])
def test_all_but_leading_begin_at_the_noisiest_time(name: str, process: Process):
    for n in COUNTS:
        assert make_grid(name, process, n)[0].item() == pytest.approx(process.start, abs=0, rel=1e-15)


@pytest.mark.parametrize(("name", "options", "timesteps"), TIMESTEPS)
def test_published_timesteps(name: str, options: dict, timesteps: list[int]):
    grid = make_grid(name, DiscreteVP(), len(timesteps), options)
    assert grid.tolist() == [*timesteps, -1]


@pytest.mark.parametrize("timesteps", DISTILLED)
def test_distilled_models_visit_the_timesteps_they_were_taught(timesteps: list[int]):
    assert trailing(DiscreteVP(), len(timesteps), original_steps=50).tolist() == [*timesteps, -1]


def test_more_steps_than_were_distilled_are_trailing():
    # diffusers refuses them
    assert torch.equal(trailing(DiscreteVP(), 60, original_steps=50), trailing(DiscreteVP(), 60))


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


@pytest.mark.parametrize(
    ("spacing", "times"), [("leading", KARRAS_TIMES_LEADING_10), ("trailing", KARRAS_TIMES_TRAILING_10)]
)
def test_karras_takes_another_range(spacing: str, times: list[float]):
    # the whole range is k-diffusion's; diffusers' Euler family takes that of the spaced timesteps
    process = DiscreteVP()
    np.testing.assert_allclose(karras(process, 10, spacing=spacing)[:-1], times, atol=5e-3)
    ends = process.log_snr_half(torch.tensor([times[0], times[-1]])).neg().exp()
    named = karras(process, 10, sigma_max=ends[0].item(), sigma_min=ends[1].item())
    np.testing.assert_allclose(named[:-1], times, atol=5e-3)


def test_karras_rho_one_is_even_in_sigma():
    torch.testing.assert_close(karras(EDM(), 5, rho=1.0)[:-1], torch.linspace(80, 0.002, 5, dtype=torch.float64))


def test_exponential_on_stable_diffusion_is_diffusers_euler():
    process = DiscreteVP()
    grid = exponential(process, 10)
    np.testing.assert_allclose(process.log_snr_half(grid[:-1]).neg().exp(), EXPONENTIAL_SIGMAS_10, rtol=1e-4)
    np.testing.assert_allclose(grid[:-1], EXPONENTIAL_TIMES_10, atol=5e-3)


@pytest.mark.parametrize("rho", [0.5, 1.0, 2.0])
def test_polyexponential_is_k_diffusions(rho: float):
    # get_sigmas_polyexponential: exp(linspace(1, 0, n)^rho (log max - log min) + log min)
    wanted = np.exp(np.linspace(1, 0, 12) ** rho * (np.log(80) - np.log(0.002)) + np.log(0.002))
    np.testing.assert_allclose(polyexponential(EDM(), 12, rho=rho), [*wanted, 0], rtol=1e-12)


def test_polyexponential_refuses_steps_that_coincide():
    with pytest.raises(ValueError, match="which do not descend"):
        polyexponential(EDM(), 1000, rho=40.0)


def test_kl_optimal_is_comfyuis():
    i = np.arange(12) / 11
    wanted = np.tan(i * np.arctan(0.002) + (1 - i) * np.arctan(80))
    np.testing.assert_allclose(kl_optimal(EDM(), 12), [*wanted, 0], rtol=1e-9)


@pytest.mark.parametrize("name", ["vp_zero_snr", "flow"])
def test_kl_optimal_needs_no_stand_in_for_infinity(name: str):
    process = PROCESSES[name]
    sigmas = process.log_snr_half(kl_optimal(process, 3)).neg().exp()
    least = process.log_snr_half(process.time_of_index(0)).neg().exp().item()
    assert sigmas[0] == torch.inf
    np.testing.assert_allclose(sigmas[1:3], [np.tan((np.pi / 2 + np.arctan(least)) / 2), least], rtol=1e-6)


@pytest.mark.parametrize("n", [3, 7, 27, 1000])
def test_comfyuis_spacings(n: int):
    process = DiscreteVP()
    table = np.arange(1000)  # ComfyUI picks sigmas by these indices
    assert simple(process, n)[:-1].tolist() == [table[-(1 + i * 1000 // n)] for i in range(n)]
    np.testing.assert_allclose(sgm_uniform(process, n)[:-1], np.linspace(999, 0, n + 1)[:-1], atol=1e-9)
    np.testing.assert_allclose(normal(process, n)[:-1], np.linspace(999, 0, n), atol=1e-9)


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (0.5, 1.2), (1.0, 1.0), (2.0, 5.0), (40.0, 3.0), (3.0, 400.0)])
def test_beta_quantile_is_scipys(a: float, b: float):
    stats = pytest.importorskip("scipy.stats")
    p = torch.linspace(0, 1, 101, dtype=torch.float64)
    np.testing.assert_allclose(beta_quantile(p, a, b), stats.beta.ppf(p, a, b), rtol=0, atol=1e-14)


@pytest.mark.parametrize("n", [1, 4, 20, 50])
def test_beta_is_comfyuis(n: int):
    stats = pytest.importorskip("scipy.stats")
    wanted = np.rint(stats.beta.ppf(1 - np.linspace(0, 1, n, endpoint=False), 0.6, 0.6) * 999)
    assert beta(DiscreteVP(), n)[:-1].tolist() == wanted.tolist()


@pytest.mark.parametrize("n", [300, 999, 1000])
def test_beta_spreads_indices_that_coincide(n: int):
    stats = pytest.importorskip("scipy.stats")
    ideal = stats.beta.ppf(1 - np.linspace(0, 1, n, endpoint=False), 0.6, 0.6) * 999
    assert len(set(np.rint(ideal))) < n  # ComfyUI takes fewer steps here
    got = beta(DiscreteVP(), n)[:-1].numpy()
    assert (got == np.rint(got)).all()
    if n == 1000:
        assert got.tolist() == list(range(999, -1, -1))
    else:  # no step is further from its place than the crowd at the ends makes it
        crowd = max(np.unique(np.rint(ideal), return_counts=True)[1])
        assert np.abs(got - ideal).max() <= n - len(set(np.rint(ideal))) + crowd


@pytest.mark.parametrize("family", ALIGNED_TIMES)
def test_align_your_steps_has_the_published_timesteps(family: str):
    np.testing.assert_allclose(align_your_steps(DiscreteVP(), 10, family=family)[:-1], ALIGNED_TIMES[family], atol=1)


def test_align_your_steps_between_the_published_is_log_linear():
    process = DiscreteVP()
    x = np.linspace(0, 1, 11)
    wanted = np.exp(np.interp(np.linspace(0, 1, 26), x, np.log(ALIGNED_SIGMAS_SD15)))
    sigmas = process.log_snr_half(align_your_steps(process, 25)).neg().exp()
    np.testing.assert_allclose(sigmas[1:-1], wanted[1:-1], rtol=1e-9)


def test_align_your_steps_of_video_needs_its_noise():
    wanted = [700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.0]
    np.testing.assert_allclose(align_your_steps(EDM(0.002, 700.0), 10, family="svd"), wanted, rtol=1e-12)
    with pytest.raises(ValueError, match=r"family='svd' goes on to sigma 54.5, but this process begins at 14.6"):
        align_your_steps(DiscreteVP(), 10, family="svd")


def test_a_grid_may_be_written_down():
    process = DiscreteVP()
    assert custom_times(process, [999, 500.5, 3]).tolist() == [999, 500.5, 3, -1]
    assert custom_times(process, [999, 3, -1]).tolist() == [999, 3, -1]
    grid = custom_sigmas(process, [*ALIGNED_SIGMAS_SD15[:-1], 0.0])
    np.testing.assert_allclose(grid, align_your_steps(process, 10), rtol=1e-9)
    assert custom_sigmas(EDM(), [80.0, 3.0]).tolist() == pytest.approx([80, 3, 0])
    np.testing.assert_allclose(Flow(3.0).sigma(custom_sigmas(Flow(3.0), [1.0, 0.75, 0.2])), [1, 0.75, 0.2, 0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: custom_times(DiscreteVP(), []), "timesteps is empty"),
        (lambda: custom_times(DiscreteVP(), [3, 999]), "timesteps goes from 3 to 999"),
        (lambda: custom_times(DiscreteVP(), [1000, 1]), r"timesteps has 1000, outside \(-1, 999\]"),
        (lambda: custom_sigmas(EDM(), [3.0, 3.0]), "sigmas goes from 3 to 3"),
        (lambda: custom_sigmas(EDM(), [3.0, -1.0]), "sigmas has -1"),
        (lambda: custom_sigmas(Flow(), [3.0, 1.0]), "sigmas has 3; use numbers above 0 and up to 1"),
        (lambda: custom_sigmas(DiscreteVP(), [30.0, 20.0]), "which do not descend"),
    ],
)
def test_a_written_grid_is_checked(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()


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


@pytest.mark.parametrize("shift", [0.5, 3.0])
def test_shifted_flow_is_diffusers_flow_matching(shift: float):
    # diffusers shifts the least level twice, so its last point is the shifted level of index 0 shifted again
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(28)
    process = Flow(shift)
    once = shift * 1e-3 / (1 + (shift - 1) * 1e-3)
    grid = linspace(process, 28, last=1000 * once - 1)
    np.testing.assert_allclose(process.sigma(grid), scheduler.sigmas.numpy(), atol=1e-6)
    assert process.sigma(linspace(process, 28)[-2]).item() == pytest.approx(once, rel=1e-9)


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
        ("linspace", 5, {"last": 999.0}, ["last=999"]),
        ("trailing", 5, {"original_steps": 0}, ["original_steps=0", "1 to 1000"]),
        ("simple", 1001, {}, ["num_inference_steps=1001", "1 to 1000"]),
        ("beta", 5, {"alpha": 0.0}, ["alpha=0"]),
        ("align_your_steps", 5, {"family": "sd51"}, ["unknown family 'sd51'", "'sd15'"]),
        ("exponential", 5, {"spacing": "karras"}, ["unknown spacing 'karras'"]),
        ("polyexponential", 5, {"rho": -1.0}, ["rho=-1"]),
        ("karras", 5, {"rho": 0.0}, ["rho=0"]),
        ("karras", 5, {"sigma_min": 20.0}, ["sigma_min=20"]),
        ("karras", 5, {"sigma_max": 15.0}, ["sigma_max=15", "14.6146"]),
    ],
)
def test_errors_name_the_field_and_the_mend(name: str, n: int, options: dict, words: list[str]):
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        make_grid(name, DiscreteVP(), n, options)
    assert all(word in str(error.value) for word in words), error.value
