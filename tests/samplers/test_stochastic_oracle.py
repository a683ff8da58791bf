"""Stochastic samplers step by step beside k-diffusion 0.1.1 and diffusers' schedulers, with the same noise.

Known-wrong corners of diffusers 0.42.1, kept clear of or shown here: `sde-dpmsolver++` of third order has -1/2 where
+1/2 is right in the weight of the second difference; its tests of `EulerAncestralDiscreteScheduler` feed the scaled
sample to `step` (the numbers here are those of a correct loop).
"""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from checkout import GOLDEN
from diffusers import DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, LTXEulerAncestralRFScheduler
from spread import spread
from torch import Tensor

from ldm.denoiser import NetworkDenoiser, Prediction
from ldm.process import EDM, DiscreteVP, Flow, Process
from ldm.samplers.ancestral import dpm2_ancestral, dpmpp_2s_ancestral, euler_ancestral
from ldm.samplers.sde import dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_sde
from ldm.samplers.step import Step, levels_of
from ldm.schedules import karras, linspace, make_grid

SAMPLES: dict[str, Callable[..., Iterator[Step]]] = {
    "euler_ancestral": euler_ancestral,
    "dpm2_ancestral": dpm2_ancestral,
    "dpmpp_2s_ancestral": dpmpp_2s_ancestral,
    "dpmpp_sde": dpmpp_sde,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_3m_sde": dpmpp_3m_sde,
}
GOLDEN_RUNS = json.loads((GOLDEN / "k_diffusion.json").read_text())
RUNS = [run for run in GOLDEN_RUNS["runs"] if run["sampler"] in SAMPLES]
STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
VP = DiscreteVP()
WEIGHT = torch.randn(3, 3, 3, 3, generator=torch.Generator().manual_seed(0)) / 4


class GivenNoise:
    """The noise that k-diffusion was given, in its order; remembers which stretches were requested."""

    def __init__(self, draws: list[int]) -> None:
        self.draws = iter(
            torch.tensor(GOLDEN_RUNS["noise"], dtype=torch.float64).reshape(-1, *GOLDEN_RUNS["shape"])[draws]
        )
        self.stretches: list[tuple[float, float]] = []

    def __call__(self) -> Tensor:
        return next(self.draws)

    def between(self, start: float, end: float) -> Tensor:
        self.stretches.append((start, end))
        return next(self.draws)


class Draws:
    """One generator for all images, as diffusers draws."""

    def __init__(self, seed: int, *shape: int) -> None:
        self.generator, self.shape = torch.Generator().manual_seed(seed), shape

    def __call__(self) -> Tensor:
        return torch.randn(self.shape, generator=self.generator)

    def between(self, start: float, end: float) -> Tensor:
        return self()


def golden_denoiser(process: Process):
    """The network of make_k_diffusion.py, which sees x / alpha at sigma / alpha."""

    def denoise(x: Tensor, t: float) -> Prediction:
        alpha, sigma = (level.item() for level in process.levels(t))
        ratio = sigma / alpha
        seen = x / alpha / math.sqrt(1 + ratio**2)
        x0 = torch.tanh(seen + seen.flip(-1) / 2 - seen.flip(1) / 4) + math.cos(math.log1p(ratio)) / 5
        return Prediction(x0, (x - alpha * x0) / sigma)

    denoise.process = process  # type: ignore[attr-defined]
    return denoise


@pytest.mark.parametrize("process", [EDM(), VP, Flow()], ids=["edm", "vp", "flow"])
@pytest.mark.parametrize("run", RUNS, ids=[f"{run['sampler']}-{run['options']}" for run in RUNS])
def test_k_diffusion(run: dict, process: Process):
    sigmas = torch.tensor(GOLDEN_RUNS["sigmas"], dtype=torch.float64)
    grid = process.time_of_lambda(-sigmas.log())
    levels = levels_of(process, grid)
    noise = GivenNoise(run["draws"])
    x = torch.tensor(GOLDEN_RUNS["start"], dtype=torch.float64).reshape(GOLDEN_RUNS["shape"]) * levels[0].alpha
    steps = list(SAMPLES[run["sampler"]](golden_denoiser(process), x, grid, noise, **run["options"]))
    for step, then, wanted in zip(steps, levels[1:], run["x"], strict=True):
        theirs = torch.tensor(wanted, dtype=torch.float64).reshape(GOLDEN_RUNS["shape"])
        torch.testing.assert_close(step.x / then.alpha, theirs, rtol=1e-7, atol=1e-7)
    if noise.stretches:
        load_options = process.time_of_lambda(-torch.tensor(run["between"], dtype=torch.float64).log())
        progress = process.progress(load_options).tolist()
        assert noise.stretches == [pytest.approx(stretch, abs=1e-9) for stretch in progress]


def test_golden_trajectories_cover_every_stochastic_sampler_of_k_diffusion():
    assert {run["sampler"] for run in RUNS} == set(SAMPLES)


def network(x: Tensor, time: Tensor, conditioning: object = None) -> Tensor:
    """A smooth function of x and time."""
    shift = (time.float() / 300)[:, None, None, None]
    return torch.tanh(torch.nn.functional.conv2d(x, WEIGHT, padding=1) + shift.sin())


def start() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def assert_same_walk(steps: Iterator[Step], wanted: list[Tensor], tolerance: float = 1e-4) -> None:
    for step, theirs in zip(steps, wanted, strict=True):
        torch.testing.assert_close(step.x, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("spacing", "n", "options"),
    [
        ("leading", 4, {"offset": 1}),
        ("leading", 20, {"offset": 1}),
        ("trailing", 10, {}),
        ("linspace", 7, {"rounded": False}),
    ],
)
def test_euler_ancestral_beside_diffusers(spacing: str, n: int, options: dict, kind: str):
    scheduler: Any = EulerAncestralDiscreteScheduler(
        **STABLE_DIFFUSION, prediction_type=kind, timestep_spacing=spacing, steps_offset=1
    )
    scheduler.set_timesteps(n)
    x, wanted, generator = start() * (1 + scheduler.sigmas[0] ** 2) ** 0.5, [], torch.Generator().manual_seed(7)
    for i, t in enumerate(scheduler.timesteps):
        output = network(scheduler.scale_model_input(x, t), t.expand(2))
        x = scheduler.step(output, t, x, generator=generator).prev_sample
        wanted.append(x / (1 + scheduler.sigmas[i + 1] ** 2) ** 0.5)
    grid = make_grid(spacing, VP, n, options)
    denoise = NetworkDenoiser(network, VP, kind)
    assert_same_walk(euler_ancestral(denoise, start(), grid, Draws(7, 2, 3, 8, 8)), wanted)


@pytest.mark.parametrize(("kind", "correct"), [("epsilon", 233.28616333007812), ("v_prediction", 137.21527099609375)])
def test_euler_ancestral_full_loop(kind: str, correct: float):
    """diffusers' dummy model and sample; the number of a loop that does not feed the scaled sample to `step`."""
    process = DiscreteVP("linear", 0.0001, 0.02, num_train_timesteps=1100)

    def dummy(x: Tensor, time: Tensor, conditioning: object) -> Tensor:
        t = time[:, None, None, None]
        return x * t / (t + 1)

    grid = linspace(process, 10, rounded=False)
    ramp = (torch.arange(768).reshape(3, 8, 8, 4) / 768).permute(3, 0, 1, 2)
    x = ramp * process.sigma(grid[0]).item()
    *_, end = euler_ancestral(NetworkDenoiser(dummy, process, kind), x, grid, Draws(0, 4, 3, 8, 8))
    assert end.x.abs().sum().item() == pytest.approx(correct, rel=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("n", [2, 10, 20])
def test_dpmpp_2m_sde_beside_diffusers(n: int, final: str, solver_type: str, kind: str):
    scheduler: Any = DPMSolverMultistepScheduler(
        **STABLE_DIFFUSION,
        prediction_type=kind,
        algorithm_type="sde-dpmsolver++",
        solver_type=solver_type,
        final_sigmas_type=final,
        timestep_spacing="linspace",
    )
    scheduler.set_timesteps(n)
    x, wanted, generator = start(), [], torch.Generator().manual_seed(7)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.expand(2)), t, x, generator=generator).prev_sample
        wanted.append(x)
    process = DiscreteVP(final_alpha_one=final == "zero")
    steps = dpmpp_2m_sde(
        NetworkDenoiser(network, process, kind),
        start(),
        linspace(process, n, skip_last=True),
        Draws(7, 2, 3, 8, 8),
        solver_type=solver_type,
    )
    assert_same_walk(steps, wanted)


def spread_of_diffusers(order: int, n: int, std: float = 0.5) -> float:
    """Standard deviation of what its SDE solver draws from data N(0, std^2), where steps are linear.

    Each pixel carries one unit of one noise, the last one the start's; squares add up.
    """
    scheduler: Any = DPMSolverMultistepScheduler(
        **STABLE_DIFFUSION,
        prediction_type="sample",
        algorithm_type="sde-dpmsolver++",
        solver_order=order,
        use_karras_sigmas=True,
    )
    scheduler.set_timesteps(n)
    ratios = scheduler.sigmas.double()
    alphas = (1 + ratios**2).rsqrt()
    units = torch.eye(n + 1, dtype=torch.float64)
    x = units[n] * torch.hypot(alphas[0] * std, alphas[0] * ratios[0])
    for i, t in enumerate(scheduler.timesteps):
        x0 = x * std**2 / (std**2 + ratios[i] ** 2) / alphas[i]
        x = scheduler.step(x0, t, x, variance_noise=units[i]).prev_sample
    return x.square().sum().sqrt().item()


def test_third_order_sde_of_diffusers_has_the_wrong_variance():
    grid = karras(VP, 25)
    assert spread_of_diffusers(2, 25) == pytest.approx(spread(dpmpp_2m_sde, VP, grid), rel=1e-5)
    assert spread(dpmpp_3m_sde, VP, grid) == pytest.approx(0.5, rel=0.02)
    assert spread_of_diffusers(3, 25) > 0.5 * 1.05


@pytest.mark.parametrize(("sigma", "following"), [(0.9, 0.7), (0.5, 0.45), (0.2, 0.02)])
@pytest.mark.parametrize("theirs", [0.3, 1.0])
def test_the_step_of_rectified_flow_is_the_renormalised_one(sigma: float, following: float, theirs: float):
    """LTX's and ComfyUI's RF step is ours with the eta that leaves as much of the noise."""
    scheduler: Any = LTXEulerAncestralRFScheduler(eta=theirs)
    scheduler.set_timesteps(sigmas=[sigma, following, 0.0])
    x, output = start(), network(start(), torch.full((2,), 1000 * sigma))
    wanted = scheduler.step(output, scheduler.timesteps[0], x, generator=torch.Generator().manual_seed(7)).prev_sample
    down = following * (1 + theirs * (following / sigma - 1))
    ratio, ratio_then, ratio_down = (s / (1 - s) for s in (sigma, following, down))
    eta = math.sqrt((1 - (ratio_down / ratio_then) ** 2) / (1 - (ratio_then / ratio) ** 2))
    denoise = NetworkDenoiser(lambda x, time, conditioning: network(x, time), Flow(), "flow")
    grid = torch.tensor([sigma, following], dtype=torch.float64)
    assert_same_walk(euler_ancestral(denoise, x, grid, Draws(7, 2, 3, 8, 8), eta=eta), [wanted], 1e-5)
