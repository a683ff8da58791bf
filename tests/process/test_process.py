"""Processes: published tables, exact ends, inverses, and what diffusers' schedulers say of the same numbers."""

import re

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from ldm.process import EDM, DiscreteVP, Flow, Process

PROCESSES = {
    "vp": DiscreteVP(),
    "vp_zero_snr": DiscreteVP(zero_terminal_snr=True),
    "vp_cosine": DiscreteVP("squaredcos_cap_v2"),
    "flow": Flow(),
    "flow_shift_3": Flow(shift=3.0),
    "edm": EDM(),
}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())

# alphas_cumprod of Stable Diffusion's schedule (scaled_linear 0.00085 to 0.012, 1000 steps), computed in float64.
STABLE_DIFFUSION = {
    0: 0.99915, 1: 0.9982960278384514, 10: 0.9904313091142859, 50: 0.9515769028024592, 100: 0.8942234775865594,
    250: 0.6737926252333215, 500: 0.2763326838229746, 750: 0.05616984800293729, 900: 0.014151141969672475,
    981: 0.00577550013949575, 999: 0.004660098513077238,
}  # fmt: skip
# sqrt((1 - alphas_cumprod) / alphas_cumprod) of the same.
STABLE_DIFFUSION_SIGMAS = {
    0: 0.029167158151720367, 10: 0.09829107438131854, 100: 0.3439312264488857, 500: 1.6182788260186167,
    981: 13.120410742553979, 999: 14.614641229333639,
}  # fmt: skip
# The same schedule after rescale_zero_terminal_snr of diffusers 0.42.1, float32.
STABLE_DIFFUSION_ZERO_SNR = {
    0: 0.9991499781608582, 1: 0.9982334971427917, 10: 0.9897937178611755, 50: 0.9481350779533386,
    100: 0.8867608904838562, 250: 0.6524567008018494, 500: 0.24101854860782623, 750: 0.032799094915390015,
    900: 0.002960391342639923, 981: 6.886565824970603e-05, 999: 0.0,
}  # fmt: skip
# diffusers 0.42.1, float32: squaredcos_cap_v2, and linear 0.0001 to 0.02.
COSINE = {
    0: 0.9999586939811707, 10: 0.9992788434028625, 100: 0.9715756177902222, 500: 0.4922850430011749,
    900: 0.023616107180714607, 999: 2.4287349909002387e-09,
}  # fmt: skip
LINEAR = {
    0: 0.9998999834060669, 10: 0.9978064894676208, 100: 0.8951413631439209, 500: 0.07779665291309357,
    900: 0.0002702444908209145, 999: 4.035830352222547e-05,
}  # fmt: skip
# Karras et al. 2022, eq. 5: 18 steps, 0.002 to 80, rho 7; computed by the formula in float64.
KARRAS_18 = [
    79.99999999999999, 57.58598472124816, 40.78557379650796, 28.37458460415684, 19.352452980325225, 12.91008238075732,
    8.400935309099825, 5.315194521796382, 3.256821519765537, 1.923339837040052, 1.088170636545279, 0.5853481231945421,
    0.29644228447915777, 0.13951646873101678, 0.05994731123547159, 0.022934518372333384, 0.0075280199627840785, 0.002,
]  # fmt: skip


def indices(process: Process, count: int = 2001) -> torch.Tensor:
    """Training indices over the whole range, ends included."""
    return torch.linspace(-1, process.num_train_timesteps - 1, count, dtype=torch.float64)


def levels(process: Process, table: dict[int, float]) -> np.ndarray:
    """alpha^2 at the timesteps of a published table."""
    return process.alpha(torch.tensor(list(table), dtype=torch.float64)).square().numpy()


def test_stable_diffusion_table():
    np.testing.assert_allclose(levels(DiscreteVP(), STABLE_DIFFUSION), list(STABLE_DIFFUSION.values()), rtol=1e-12)


def test_stable_diffusion_sigmas_are_exp_of_minus_lambda():
    times = torch.tensor(list(STABLE_DIFFUSION_SIGMAS), dtype=torch.float64)
    sigmas = (-DiscreteVP().log_snr_half(times)).exp().numpy()
    np.testing.assert_allclose(sigmas, list(STABLE_DIFFUSION_SIGMAS.values()), rtol=1e-12)


@pytest.mark.parametrize(
    ("process", "table"),
    [
        (DiscreteVP("squaredcos_cap_v2"), COSINE),
        (DiscreteVP("linear", 0.0001, 0.02), LINEAR),
        (DiscreteVP(zero_terminal_snr=True), STABLE_DIFFUSION_ZERO_SNR),
    ],
    ids=["cosine", "linear", "zero_snr"],
)
def test_published_float32_tables(process: Process, table: dict[int, float]):
    np.testing.assert_allclose(levels(process, table), list(table.values()), rtol=2e-5, atol=2e-7)


def test_betas_given_as_numbers_make_the_same_table():
    named = DiscreteVP("linear", 0.01, 0.2, num_train_timesteps=5)
    given = DiscreteVP(betas=tuple(named.beta_table.tolist()), num_train_timesteps=5)
    assert torch.equal(given.alphas_cumprod, named.alphas_cumprod)


@every_process
def test_lambda_falls_strictly_with_time(process: Process):
    lambdas = process.log_snr_half(process.time_of_index(indices(process)))
    assert (lambdas.diff() < 0).all()


@every_process
def test_time_of_lambda_inverts_lambda(process: Process):
    times = process.time_of_index(indices(process))
    back = process.time_of_lambda(process.log_snr_half(times))
    torch.testing.assert_close(back, times, rtol=1e-10, atol=1e-10)


@every_process
def test_index_of_time_inverts_time_of_index(process: Process):
    index = indices(process)
    torch.testing.assert_close(process.index_of_time(process.time_of_index(index)), index, rtol=0, atol=1e-9)


@every_process
def test_terminal_point_is_the_picture_itself(process: Process):
    assert process.alpha(process.terminal).item() == 1
    assert process.sigma(process.terminal).item() == 0
    assert process.log_snr_half(process.terminal).item() == torch.inf


@every_process
def test_progress_goes_from_zero_to_one(process: Process):
    assert process.progress(process.start).item() == pytest.approx(0, abs=1e-12)
    assert process.progress(process.terminal).item() == pytest.approx(1)


@pytest.mark.parametrize("name", ["vp", "vp_zero_snr", "vp_cosine"])
def test_vp_keeps_variance_between_the_table_entries_too(name: str):
    alpha, sigma = PROCESSES[name].levels(indices(PROCESSES[name]))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["vp_zero_snr", "flow", "flow_shift_3"])
def test_zero_snr_start_is_exactly_noise(name: str):
    process = PROCESSES[name]
    assert process.alpha(process.start).item() == 0
    assert process.sigma(process.start).item() == 1
    assert process.log_snr_half(process.start).item() == -torch.inf


def test_without_final_alpha_one_the_terminal_repeats_timestep_zero():
    process = DiscreteVP(final_alpha_one=False)
    for level in (process.alpha, process.sigma):
        assert level(-1.0) == level(0.0)
    assert process.alpha(-1.0).square().item() == pytest.approx(STABLE_DIFFUSION[0], rel=1e-12)


def test_fractional_timesteps_are_diffusers_sigma_to_t():
    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    sigmas = np.geomspace(0.03, 14.6, 40)
    table = np.log((((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod) ** 0.5).numpy())
    wanted = np.array([scheduler._sigma_to_t(sigma, table) for sigma in sigmas])
    process = DiscreteVP()
    got = process.model_time(process.time_of_lambda(-torch.from_numpy(sigmas).log()))
    np.testing.assert_allclose(got.numpy(), wanted, atol=2e-3)  # float32 tables there: 7e-7 of a slope of 1 / 0.003


def test_vp_network_never_hears_of_the_terminal_time():
    assert DiscreteVP().model_time(-0.5).item() == 0
    assert DiscreteVP().model_time(499.25).item() == 499.25


def test_flow_shift_is_diffusers_flow_matching():
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    process = Flow(shift=3.0)
    index = torch.arange(999, -1, -1, dtype=torch.float64)
    times = process.time_of_index(index)
    np.testing.assert_allclose(process.sigma(times).numpy(), scheduler.sigmas.numpy(), rtol=1e-6)
    np.testing.assert_allclose(process.model_time(times).numpy(), scheduler.timesteps.numpy(), rtol=1e-6)


def test_edm_preconditioning_is_diffusers_for_variance_one():
    scheduler = EDMEulerScheduler(sigma_data=1.0)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.3, 20.0])
    for i in range(2):
        wanted = scheduler.precondition_inputs(x, sigma[i])
        torch.testing.assert_close(EDM().scale_input(x, sigma[i]), wanted)
        assert EDM().model_time(sigma[i].double()).item() == pytest.approx(
            scheduler.precondition_noise(sigma[i]).item()
        )
    per_sample = EDM().scale_input(x, sigma.double())
    torch.testing.assert_close(per_sample[1], scheduler.precondition_inputs(x, sigma[1])[1])


def test_edm_training_indices_are_equation_5():
    process = EDM(num_train_timesteps=18)
    times = process.time_of_index(torch.arange(17, -1, -1, dtype=torch.float64))
    np.testing.assert_allclose(times.numpy(), KARRAS_18, rtol=1e-12)


def test_add_noise_is_diffusers_with_one_time_per_sample():
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    times = torch.tensor([0, 400, 999])
    got = DiscreteVP().add_noise(x0, noise, times)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, scheduler.add_noise(x0, noise, times), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(DiscreteVP().add_noise(x0, noise, 400.0)[1], got[1])


@every_process
def test_initial_x_has_the_variance_of_noised_data(process: Process):
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    alpha, sigma = process.levels(process.start)
    wanted = (alpha.item() ** 2 + sigma.item() ** 2) ** 0.5 * noise
    torch.testing.assert_close(process.initial(noise, process.start), wanted)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DiscreteVP("scaled_liner"), ["beta_schedule", "scaled_liner", "did you mean 'scaled_linear'"]),
        (lambda: DiscreteVP(betas=(0.1, 0.2)), ["betas has 2", "num_train_timesteps=1000"]),
        (lambda: DiscreteVP("linear", 0.1, 1.5), ["betas", "1.5", "(0, 1)"]),
        (lambda: DiscreteVP(num_train_timesteps=1), ["num_train_timesteps=1"]),
        (lambda: DiscreteVP().alpha(1000.0), ["t=[1000.0]", "[-1, 999]"]),
        (lambda: Flow(shift=0.0), ["shift=0.0"]),
        (lambda: EDM(sigma_min=3.0, sigma_max=2.0), ["sigma_min=3.0", "sigma_max=2.0"]),
    ],
)
def test_errors_name_the_field_and_the_value(make, words: list[str]):
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        make()
    assert all(word in str(error.value) for word in words), error.value
