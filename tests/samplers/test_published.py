"""The numbers that diffusers' own scheduler tests publish, reached by our samplers.

Their network is model(x, t) = x t / (t + 1), their start `dummy_sample_deter`, their figure the sum of |x| at the end
(tests/schedulers of diffusers at 58eb52c0; all reproduced with diffusers 0.42.1 on CPU). Their tests of the Euler
scheduler feed the scaled sample to `step`; the numbers here are those of a correct loop around the same scheduler.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ldm.denoiser import NetworkDenoiser, Prediction
from ldm.process import DiscreteVP, Process
from ldm.samplers import SAMPLERS
from ldm.schedules import karras, leading, linspace, make_grid

LINEAR = DiscreteVP("linear", 0.0001, 0.02)
EULER = DiscreteVP("linear", 0.0001, 0.02, num_train_timesteps=1100)
SOLVER = DiscreteVP("linear", 0.0001, 0.02, final_alpha_one=False)  # final_sigmas_type="sigma_min"


def ramp() -> Tensor:
    """`dummy_sample_deter` of diffusers' tests, `(4, 3, 8, 8)`."""
    return (torch.arange(768).reshape(3, 8, 8, 4) / 768).permute(3, 0, 1, 2)


def reversed_ramp() -> Tensor:
    """`dummy_noise_deter` of diffusers' tests, `(4, 3, 8, 8)`."""
    return (torch.arange(768).flip(-1).reshape(3, 8, 8, 4) / 768).permute(3, 0, 1, 2)


class Dummy:
    """diffusers' dummy model as a denoiser.

    clip: their `clip_sample`, which cuts x0 to [-1, 1] and leaves eps as it was.
    whole: the network hears whole timesteps, as from their DPM-Solver on Karras sigmas.
    """

    def __init__(self, process: Process, kind: str = "epsilon", clip: bool = False, whole: bool = False) -> None:
        def network(x: Tensor, time: Tensor, conditioning: object) -> Tensor:
            t = (time.round() if whole else time)[:, None, None, None]
            return x * t / (t + 1)

        self.process, self._clip, self._denoise = process, clip, NetworkDenoiser(network, process, kind)

    def __call__(self, x: Tensor, t: float) -> Prediction:
        prediction = self._denoise(x, t)
        return Prediction(prediction.x0.clamp(-1, 1), prediction.eps) if self._clip else prediction


def torch_noise() -> Callable[[], Tensor]:
    """torch.randn from seed 0, the sample's shape once a step."""
    generator = torch.Generator().manual_seed(0)
    return lambda: torch.randn(4, 3, 8, 8, generator=generator)


def figure(sampler: str, denoise: Dummy, grid: Tensor, x: Tensor, **options) -> float:
    """Sum of |x| at the end."""
    *_, end = SAMPLERS[sampler](denoise, x, grid, torch_noise(), **options)
    return end.x.abs().sum().item()


@pytest.mark.parametrize(("kind", "published"), [("epsilon", 258.96063232421875), ("v_prediction", 202.02957153320312)])
def test_ddpm_full_loop(kind: str, published: float):
    got = figure("ddpm", Dummy(LINEAR, kind, clip=True), leading(LINEAR, 1000), ramp())
    assert got == pytest.approx(published, rel=1e-5)


def test_ddpm_from_a_noised_sample():
    x = LINEAR.add_noise(ramp(), reversed_ramp(), 1.0)
    got = figure("ddpm", Dummy(LINEAR, clip=True), leading(LINEAR, 1000)[998:], x)
    # 387.9466 is published, where 1 - alphas_cumprod[1] has three digits; with tables in float64 diffusers itself says:
    assert got == pytest.approx(387.96725098429357, rel=1e-6)
    assert got == pytest.approx(387.94659423828125, rel=1e-4)


@pytest.mark.parametrize(
    ("process", "kind", "published"),
    [
        (LINEAR, "epsilon", 172.0067138671875),
        (LINEAR, "v_prediction", 52.53020095825195),
        (DiscreteVP("linear", 0.01, 0.02), "epsilon", 149.82945251464844),  # set_alpha_to_one
        (DiscreteVP("linear", 0.01, 0.02, final_alpha_one=False), "epsilon", 149.0784149169922),
    ],
)
def test_ddim_full_loop(process: Process, kind: str, published: float):
    got = figure("ddim", Dummy(process, kind, clip=True), leading(process, 10), ramp())
    assert got == pytest.approx(published, rel=1e-5)


def test_ddim_from_a_noised_sample():
    grid = leading(LINEAR, 10)[8:]
    x = LINEAR.add_noise(ramp(), reversed_ramp(), grid[0])
    assert figure("ddim", Dummy(LINEAR, clip=True), grid, x) == pytest.approx(354.54180908203125, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "schedule", "published"),
    [
        ("epsilon", "linspace", 168.05157470703125),
        ("v_prediction", "linspace", 46.914119720458984),
        ("epsilon", "karras", 156.6845245361328),
    ],
)
def test_euler_full_loop(kind: str, schedule: str, published: float):
    # its 10 timesteps are fractions of 1099 / 9; between two table entries it is linear in sigma, we in log sigma
    grid = make_grid(schedule, EULER, 10, {"rounded": False} if schedule == "linspace" else {})
    x = EULER.sigma(grid[0]).item() * ramp()
    assert figure("euler", Dummy(EULER, kind), grid, x) == pytest.approx(published, rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "schedule", "correct"),
    [
        ("epsilon", "linspace", 218.2555694580078),
        ("v_prediction", "linspace", 107.87887573242188),
        ("epsilon", "karras", 223.27023315429688),
    ],
)
def test_dpm2_full_loop(kind: str, schedule: str, correct: float):
    # KDPM2DiscreteScheduler; 20.4125 and 0 are published for a scaled sample fed to `step`
    grid = make_grid(schedule, EULER, 10, {"rounded": False} if schedule == "linspace" else {})
    x = EULER.sigma(grid[0]).item() * ramp()
    assert figure("dpm2", Dummy(EULER, kind), grid, x) == pytest.approx(correct, rel=2e-4)


@pytest.mark.parametrize(
    ("sampler", "kind", "schedule", "published"),
    [
        ("dpmpp_2m", "epsilon", "linspace", 253.5513916015625),
        ("dpmpp_2m", "v_prediction", "linspace", 172.87396240234375),
        ("dpmpp_2m", "epsilon", "karras", 226.17453002929688),
        ("dpmpp_2m", "v_prediction", "karras", 160.66419982910156),
        ("euler", "epsilon", "linspace", 172.26416015625),  # solver_order=1
    ],
)
def test_dpm_solver_full_loop(sampler: str, kind: str, schedule: str, published: float):
    grid = linspace(SOLVER, 10, skip_last=True) if schedule == "linspace" else karras(SOLVER, 10)
    options = {"lower_order_final": False} if sampler == "dpmpp_2m" else {}
    got = figure(sampler, Dummy(SOLVER, kind, whole=schedule == "karras"), grid, ramp(), **options)
    assert got == pytest.approx(published, rel=1e-4)


def test_dpm_solver_to_sigma_zero():
    # final_sigmas_type="zero", lower_order_final=True
    got = figure("dpmpp_2m", Dummy(LINEAR), linspace(LINEAR, 10, skip_last=True), ramp())
    assert got == pytest.approx(185.0113525390625, rel=1e-4)


def test_dpm_solver_from_a_noised_sample():
    grid = linspace(SOLVER, 10, skip_last=True)[5:]
    x = SOLVER.add_noise(ramp(), reversed_ramp(), grid[0])
    got = figure("dpmpp_2m", Dummy(SOLVER), grid, x, lower_order_final=False)
    assert got == pytest.approx(318.4111022949219, rel=1e-4)


@pytest.mark.parametrize(("t", "previous", "variance"), [(420, 400, 0.14771), (980, 960, 0.3246), (487, 486, 0.00979)])
def test_published_posterior_variances(t: int, previous: int, variance: float):
    """Variance that one step of ddim with eta = 1 draws anew (diffusers' test_variance of DDIM and DDPM)."""
    grid = torch.tensor([t, previous], dtype=torch.float64)
    noise = torch.ones(1, 1, 1, 1)

    def nothing(x: Tensor, t: float) -> Prediction:
        return Prediction(torch.zeros_like(x), torch.zeros_like(x))

    nothing.process = LINEAR  # type: ignore[attr-defined]
    (step,) = SAMPLERS["ddim"](nothing, noise, grid, lambda: noise, eta=1.0)
    assert step.x.item() ** 2 == pytest.approx(variance, abs=1e-5)
