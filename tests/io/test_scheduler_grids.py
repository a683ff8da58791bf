"""diffusers' scheduler files: for every class, the grid and the noise levels that diffusers has.

Where diffusers 0.42.1 is wrong, or ours differs on purpose, a test below says so and gives our value:

- DDIM and PNDM on `linspace` step to t - T // n, which is not in their grid (issues 11347, 12633): ours go on to the
  next entry, 888 after 999 for 10 steps.
- 1000 `leading` steps with offset 1 begin at timestep 1000 and fail with an IndexError (issue 10003): ours at 999.
- One step of `linspace` begins at timestep 0 (Euler's family, DDIM, DDPM, PNDM), where nothing is left to denoise:
  ours at T - 1.
- DEIS on Karras, exponential and beta sigmas ends with an empty step; with a single step it does nothing at all.
- UniPC with bh1 gives NaN, and with order 3 and without `lower_order_final` an exception, where it ends at sigma = 0.
- The sigma-space classes replace an infinite sigma by 4096 (zero-terminal SNR); ours stays infinite.
- Between timesteps Euler's family is linear in sigma, ours (and k-diffusion) in log(sigma): 1e-4 at most.
"""

import json
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from ldm.denoiser import NetworkDenoiser
from ldm.families.parts import Defaults, SchedulerSettings
from ldm.generation.sampling import Sampling, sampling_for
from ldm.io.folder.scheduler import grid_options, scheduler_fields, scheduler_settings
from ldm.io.folder.scheduler.classes import CLASSES, SIGMA_FLAGS
from ldm.process import EDM, DiscreteVP, Flow

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
NEEDED: dict[str, dict[str, Any]] = {
    "PNDMScheduler": {"skip_prk_steps": True},
    "EDMEulerScheduler": {"sigma_data": 1.0, "prediction_type": "v_prediction"},
    "EDMDPMSolverMultistepScheduler": {"sigma_data": 1.0, "prediction_type": "v_prediction"},
}
"""What a class must say so that we have its equal."""
DISCRETE = [name for name, known in CLASSES.items() if known.process == "discrete"]
SPACED = [name for name in DISCRETE if CLASSES[name].spacing is not None and CLASSES[name].any_spacing]
FLAGGED = [name for name in DISCRETE if CLASSES[name].sigmas]

SINGLESTEP = "DPMSolverSinglestepScheduler"
"""The one class of them that reads neither `timestep_spacing` nor `steps_offset`."""


def their(name: str, **fields: Any) -> Any:
    """A scheduler of diffusers."""
    if name == "DPMSolverSDEScheduler":  # wants torchsde for its noise; lays its grid as Heun's does
        name = "HeunDiscreteScheduler"
        fields.pop("noise_sampler_seed", None)
    if name == SINGLESTEP:
        fields.pop("steps_offset", None)
    return getattr(diffusers, name)(**fields)


def settings_of(scheduler: Any, name: str) -> SchedulerSettings:
    """What we read from the file that the scheduler would write."""
    return scheduler_settings({**json.loads(scheduler.to_json_string()), "_class_name": name}, "x")


def sampling_of(settings: SchedulerSettings) -> Sampling:
    """As the pipeline samples."""
    defaults = Defaults(
        64,
        64,
        sampler=settings.sampler,
        schedule=settings.schedule,
        sampler_options=settings.sampler_options,
        schedule_options=settings.schedule_options,
    )
    return sampling_for(defaults)


def our_grid(settings: SchedulerSettings, n: int) -> Tensor:
    return sampling_of(settings).grid(settings.process, n)


def their_sigmas(scheduler: Any, n: int) -> Tensor:
    """The sigmas at the n + 1 ends of the steps, from tables that repeat those between them."""
    sigmas = scheduler.sigmas.double()
    return sigmas if len(sigmas) == n + 1 else torch.cat([sigmas[:1], sigmas[1::2]])[: n + 1]


def assert_same_levels(settings: SchedulerSettings, scheduler: Any, n: int, tolerance: float = 2e-6) -> None:
    """diffusers' formulas on our float64 table give our levels; its own table is right to 1e-5 only."""
    if isinstance(settings.process, DiscreteVP):
        scheduler.alphas_cumprod = settings.process.alphas_cumprod
    scheduler.set_timesteps(n)
    grid = our_grid(settings, n)
    if not hasattr(scheduler, "sigmas"):
        times = scheduler.timesteps.double()
        if isinstance(scheduler, diffusers.PNDMScheduler) and n > 1:
            times = torch.cat([times[:1], times[2:]])  # it asks twice at its second timestep
        assert grid[:-1].tolist() == times.tolist()
        return
    process = settings.process
    ours = process.sigma(grid) if isinstance(process, Flow) else process.log_snr_half(grid).neg().exp()
    torch.testing.assert_close(ours, their_sigmas(scheduler, n), rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("name", SPACED)
def test_spacings_are_diffusers(name: str, spacing: str) -> None:
    scheduler = their(name, **SD, **NEEDED.get(name, {}), timestep_spacing=spacing)
    settings = settings_of(scheduler, name)
    assert settings.schedule == spacing and not settings.schedule_options
    for n in (2, 3, 4, 9, 10, 27, 50):
        between = spacing == "linspace" and not grid_options(settings.sampler, spacing)["rounded"]
        assert_same_levels(settings, scheduler, n, tolerance=2e-4 if between else 2e-6)


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_the_one_spacing_of_singlestep_is_diffusers(final: str) -> None:
    scheduler = their(SINGLESTEP, **SD, final_sigmas_type=final)
    fields = {**json.loads(scheduler.to_json_string()), "_class_name": SINGLESTEP}
    settings = scheduler_settings({**fields, "timestep_spacing": "leading"}, "x")  # a leftover, which it ignores
    assert settings == settings_of(scheduler, SINGLESTEP) and settings.schedule == "linspace"
    for n in (2, 3, 4, 9, 10, 27, 50):
        assert_same_levels(settings, scheduler, n)


@pytest.mark.parametrize("flag", SIGMA_FLAGS)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("name", FLAGGED)
def test_sigmas_are_diffusers(name: str, spacing: str, flag: str) -> None:
    # Euler's family takes the range of sigma from the spacing, the solvers the whole of it
    pytest.importorskip("scipy")
    spaced = {"timestep_spacing": spacing} if name in SPACED else {}
    scheduler = their(name, **SD, **spaced, **{flag: True})
    settings = settings_of(scheduler, name)
    assert settings.schedule == SIGMA_FLAGS[flag]
    for n in (2, 4, 10, 27):
        assert_same_levels(settings, scheduler, n)


def test_the_range_of_sigma_is_honoured() -> None:
    fields = {"use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 10.0}
    scheduler = their("EulerDiscreteScheduler", **SD, **fields)
    assert_same_levels(settings_of(scheduler, "EulerDiscreteScheduler"), scheduler, 10)


def test_even_lambdas_are_exponential_sigmas() -> None:
    scheduler = their("DPMSolverMultistepScheduler", **SD, use_lu_lambdas=True)
    settings = settings_of(scheduler, "DPMSolverMultistepScheduler")
    assert settings.schedule == "exponential"
    assert_same_levels(settings, scheduler, 10)


@pytest.mark.parametrize("name", ["LCMScheduler", "TCDScheduler"])
@pytest.mark.parametrize("original", [50, 40])
def test_distilled_schedulers_visit_their_own_timesteps(name: str, original: int) -> None:
    scheduler = their(name, original_inference_steps=original)
    settings = settings_of(scheduler, name)
    assert settings.schedule == "trailing"
    for n in (1, 4, 7, 8, original):
        assert_same_levels(settings, scheduler, n)


@pytest.mark.parametrize("kind", ["karras", "exponential"])
@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_edm_schedulers(name: str, kind: str) -> None:
    scheduler = their(name, **NEEDED[name], sigma_schedule=kind, sigma_max=120.0, rho=5.0)
    settings = settings_of(scheduler, name)
    assert settings.process == EDM(0.002, 120.0, 5.0) and settings.prediction_type == "v_prediction"
    for n in (2, 10, 27):
        assert_same_levels(settings, scheduler, n, tolerance=1e-5)
        times = settings.process.model_time(our_grid(settings, n)[:-1])
        torch.testing.assert_close(times, scheduler.timesteps.double(), rtol=1e-5, atol=1e-5)


def test_euler_with_the_noise_as_time_is_edm() -> None:
    # as Stable Video Diffusion ships it
    fields = {"timestep_type": "continuous", "prediction_type": "v_prediction", "use_karras_sigmas": True}
    scheduler = their(
        "EulerDiscreteScheduler", **SD, **fields, sigma_min=0.002, sigma_max=700.0, timestep_spacing="leading"
    )
    settings = settings_of(scheduler, "EulerDiscreteScheduler")
    assert settings.process == EDM(0.002, 700.0) and settings.prediction_type == "v_prediction"
    assert_same_levels(settings, scheduler, 25, tolerance=1e-5)
    times = settings.process.model_time(our_grid(settings, 25)[:-1])
    torch.testing.assert_close(times, scheduler.timesteps.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_flow_matching(name: str, shift: float) -> None:
    scheduler = their(name, shift=shift)
    settings = settings_of(scheduler, name)
    assert settings.process == Flow(shift) and settings.prediction_type == "flow"
    for n in (2, 10, 28):
        assert_same_levels(settings, scheduler, n)


def test_flow_by_unipc() -> None:
    # 1e-6 below 1 at its first point, to keep its logarithms finite
    fields = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    scheduler = their("UniPCMultistepScheduler", **fields)
    settings = settings_of(scheduler, "UniPCMultistepScheduler")
    assert (settings.process, settings.prediction_type, settings.sampler) == (Flow(3.0), "flow", "unipc")
    assert_same_levels(settings, scheduler, 20)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("DDIMScheduler", {"set_alpha_to_one": False}),
        ("PNDMScheduler", {}),
        ("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min"}),
        ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min"}),
        ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min", "use_karras_sigmas": True}),
        ("UniPCMultistepScheduler", {"final_sigmas_type": "sigma_min"}),
        ("DEISMultistepScheduler", {}),
        ("TCDScheduler", {}),
    ],
)
def test_noise_that_is_left_at_the_end(name: str, fields: dict[str, Any]) -> None:
    scheduler = their(name, **SD, **NEEDED.get(name, {}), **fields)
    settings = settings_of(scheduler, name)
    process = settings.process
    assert isinstance(process, DiscreteVP) and not process.final_alpha_one
    assert process.levels(process.terminal) == process.levels(0)
    assert_same_levels(settings, scheduler, 10)


def network(x: Tensor, time: Tensor, conditioning: object = None) -> Tensor:
    """A smooth function of x and time."""
    return torch.tanh(x.roll(1, -1) + (time.float() / 300).sin()[:, None, None, None])


MULTISTEP, UNIPC, DEIS = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"
LEFT = {"final_sigmas_type": "sigma_min"}
STRICT = {"lower_order_final": False}


@pytest.mark.parametrize("n", [4, 20])
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (MULTISTEP, {}),
        (MULTISTEP, LEFT),
        (MULTISTEP, LEFT | STRICT),
        (MULTISTEP, {"solver_type": "heun"}),
        (MULTISTEP, LEFT | {"solver_type": "heun"}),
        (UNIPC, {}),
        (UNIPC, LEFT),
        (UNIPC, LEFT | {"solver_type": "bh1"}),
        (UNIPC, LEFT | STRICT | {"solver_order": 3}),
        (SINGLESTEP, {}),
        (SINGLESTEP, LEFT),
        (SINGLESTEP, {"solver_order": 3, "solver_type": "heun"}),
        (SINGLESTEP, LEFT | {"solver_order": 3}),
        (DEIS, {}),
        (DEIS, STRICT | {"solver_order": 3}),
    ],
)
def test_options_of_solvers_draw_what_diffusers_draws(name: str, fields: dict[str, Any], n: int) -> None:
    spaced = {"timestep_spacing": "leading"} if name in SPACED else {}
    scheduler = their(name, **SD, **fields, **spaced)
    settings = settings_of(scheduler, name)
    start = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    how, denoise = sampling_of(settings), NetworkDenoiser(network, settings.process, "epsilon")
    *_, last = how.make()(denoise, start, how.grid(settings.process, n), None)
    scheduler.set_timesteps(n)
    x = start
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.expand(2)), t, x).prev_sample
    torch.testing.assert_close(last.x, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [n for n in SPACED if not grid_options(CLASSES[n].sampler, "linspace")["skip_last"]])
def test_one_step_of_linspace_begins_with_all_the_noise(name: str) -> None:
    scheduler = their(name, **SD, **NEEDED.get(name, {}), timestep_spacing="linspace")
    scheduler.set_timesteps(1)
    assert scheduler.timesteps[0] == 0
    assert our_grid(settings_of(scheduler, name), 1).tolist() == [999, -1]


def test_zero_terminal_snr_is_infinite_noise() -> None:
    fields = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    scheduler = their("EulerDiscreteScheduler", **SD, **fields)
    scheduler.set_timesteps(5)
    settings = settings_of(scheduler, "EulerDiscreteScheduler")
    sigmas = settings.process.log_snr_half(our_grid(settings, 5)).neg().exp()
    assert sigmas[0] == torch.inf and scheduler.sigmas[0] == pytest.approx(4096)
    torch.testing.assert_close(sigmas[1:], scheduler.sigmas[1:].double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_process_has_the_noise_of_diffusers(betas: str, zero_snr: bool) -> None:
    scheduler = their("DDIMScheduler", beta_schedule=betas, rescale_betas_zero_snr=zero_snr, num_train_timesteps=500)
    process = settings_of(scheduler, "DDIMScheduler").process
    expected = scheduler.alphas_cumprod.double()
    torch.testing.assert_close(process.alpha(torch.arange(500.0)) ** 2, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", DISCRETE)
def test_missing_fields_are_the_class_own_defaults(name: str) -> None:
    process = scheduler_settings({"_class_name": name, **NEEDED.get(name, {})}, "x").process
    expected = their(name).alphas_cumprod.double()
    torch.testing.assert_close(process.alpha(torch.arange(1000.0)) ** 2, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", CLASSES)
def test_written_files_open_in_diffusers(name: str) -> None:
    settings = scheduler_settings({"_class_name": name, **NEEDED.get(name, {})}, "x")
    fields = scheduler_fields(
        settings.process, settings.prediction_type, settings.sampler, settings.schedule, settings.sampler_options
    )
    scheduler = their(name, **{key: value for key, value in fields.items() if key[0] != "_"})
    assert_same_levels(settings, scheduler, 10)


def test_only_stable_diffusions_offset_is_used() -> None:
    assert grid_options("ddim", "leading") == {"offset": 1, "skip_last": False}
    assert grid_options("dpmpp_2m", "leading") == {"offset": 1, "skip_last": True}
    assert grid_options("ddim", "trailing") == {}
    fields = {**SD, "_class_name": "DDIMScheduler", "steps_offset": 0, "clip_sample": True}
    settings = scheduler_settings(fields, "x")
    assert our_grid(settings, 10)[0] == 901 and our_grid(settings, 1000)[0] == 999


def test_linspace_goes_on_to_its_own_next_entry() -> None:
    scheduler = their("DDIMScheduler", **SD, timestep_spacing="linspace")
    scheduler.set_timesteps(10)
    assert our_grid(settings_of(scheduler, "DDIMScheduler"), 10)[:3].tolist() == [999, 888, 777]
