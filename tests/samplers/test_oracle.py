"""Step by step beside diffusers' schedulers, with the same network and the same noise.

diffusers' Euler, Heun, KDPM2 and LMS walk x / alpha, ours x; both are compared as x. Known-wrong corners of diffusers
0.42.1 that this file stays clear of:

- DDIM and PNDM step to t - T // n, outside their own grid on `linspace` and `trailing` (issues 11347, 12633;
  `test_schedules.py` and `test_plms_steps_along_its_own_grid` have our values).
- PNDM with v-prediction mixes the v of several times as if they were eps (issue 14816; `test_plms_mixes_eps_not_v`).
- Zero-terminal SNR is 2^-24 in the sigma-space schedulers.
- Euler and Heun churn x after the network has seen it, and tell the network the time before (`s_churn` is compared
  with k-diffusion instead).
- UniPC ends in NaN where the last sigma is 0, its default, with `bh1` or with `lower_order_final=False`; there ours
  returns x0.
"""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from ldm.denoiser import NetworkDenoiser
from ldm.process import DiscreteVP
from ldm.samplers import SAMPLERS
from ldm.schedules import make_grid

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
VP = DiscreteVP()
ZERO_SNR = DiscreteVP(zero_terminal_snr=True)
WEIGHT = torch.randn(3, 3, 3, 3, generator=torch.Generator().manual_seed(0)) / 4
KINDS = ("epsilon", "v_prediction", "sample")


def network(x: Tensor, time: Tensor, conditioning: object = None) -> Tensor:
    """A smooth function of x and time."""
    shift = (time.float() / 300)[:, None, None, None]
    return torch.tanh(torch.nn.functional.conv2d(x, WEIGHT, padding=1) + shift.sin())


def whole(x: Tensor, time: Tensor, conditioning: object = None) -> Tensor:
    """The same for a caller that rounds timesteps, as diffusers' DPM-Solver does on Karras sigmas."""
    return network(x, time.round(), conditioning)


def draws() -> Callable[[], Tensor]:
    """The same noise for both sides."""
    generator = torch.Generator().manual_seed(7)
    return lambda: torch.randn(2, 3, 8, 8, generator=generator)


def start() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def ours(
    sampler: str, process: DiscreteVP, kind: str, grid: Tensor, x: Tensor, predict=network, **options
) -> list[Tensor]:
    """x after every step."""
    denoise = NetworkDenoiser(predict, process, kind)
    return [step.x for step in SAMPLERS[sampler](denoise, x, grid, draws(), **options)]


def theirs(scheduler, n: int, x: Tensor, **options) -> list[Tensor]:
    """x after every step of a scheduler that walks x itself."""
    scheduler.set_timesteps(n)
    walked = []
    for t in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, t), t.expand(2))
        x = scheduler.step(output, t, x, **options).prev_sample
        walked.append(x)
    return walked


def theirs_scaled(scheduler, n: int, x: Tensor, order: int = 1) -> list[Tensor]:
    """x after every step of a scheduler that walks x / alpha: alpha is 1 / sqrt(1 + sigma^2)."""
    scheduler.set_timesteps(n)
    x = x * (1 + scheduler.sigmas[0] ** 2) ** 0.5
    walked = []
    for i, t in enumerate(scheduler.timesteps):
        output = network(scheduler.scale_model_input(x, t), t.expand(2))
        x = scheduler.step(output, t, x).prev_sample
        following = scheduler.sigmas[i + 1]
        if order == 1 or i % 2 == 1 or following == 0:
            walked.append(x / (1 + following**2) ** 0.5)
    return walked


def assert_same_walk(got: list[Tensor], wanted: list[Tensor], tolerance: float = 1e-4) -> None:
    assert len(got) == len(wanted)
    for i, (a, b) in enumerate(zip(got, wanted, strict=True)):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda m, i=i: f"step {i}: {m}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("spacing", "n"), [("leading", 4), ("leading", 20), ("trailing", 10)])
def test_ddim(spacing: str, n: int, kind: str):
    scheduler = DDIMScheduler(
        **STABLE_DIFFUSION, prediction_type=kind, timestep_spacing=spacing, steps_offset=1, clip_sample=False
    )
    grid = make_grid(spacing, VP, n, {"offset": 1} if spacing == "leading" else {})
    assert_same_walk(ours("ddim", VP, kind, grid, start()), theirs(scheduler, n, start()))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_ddim_without_final_alpha_one(kind: str):
    process = DiscreteVP(final_alpha_one=False)
    scheduler = DDIMScheduler(
        **STABLE_DIFFUSION, prediction_type=kind, steps_offset=1, clip_sample=False, set_alpha_to_one=False
    )
    grid = make_grid("leading", process, 10, {"offset": 1})
    assert_same_walk(ours("ddim", process, kind, grid, start()), theirs(scheduler, 10, start()))


@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_ddim_with_noise(eta: float):
    scheduler = DDIMScheduler(**STABLE_DIFFUSION, timestep_spacing="trailing", clip_sample=False)
    noise, walked, x = draws(), [], start()
    scheduler.set_timesteps(10)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.expand(2)), t, x, eta=eta, variance_noise=noise()).prev_sample
        walked.append(x)
    grid = make_grid("trailing", VP, 10)
    assert_same_walk(ours("ddim", VP, "epsilon", grid, start(), eta=eta), walked)


@pytest.mark.parametrize("eta", [0.0, 0.9])
@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_ddim_from_zero_snr(kind: str, eta: float):
    # with eta = 1 the first step keeps nothing of eps; there float32 leaves diffusers with sqrt(1e-7) of it
    scheduler = DDIMScheduler(
        **STABLE_DIFFUSION,
        prediction_type=kind,
        timestep_spacing="trailing",
        clip_sample=False,
        rescale_betas_zero_snr=True,
    )
    generator = torch.Generator().manual_seed(7)
    wanted = theirs(scheduler, 10, start(), eta=eta, generator=generator)
    grid = make_grid("trailing", ZERO_SNR, 10)
    assert_same_walk(ours("ddim", ZERO_SNR, kind, grid, start(), eta=eta), wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("spacing", "n"), [("leading", 10), ("linspace", 10), ("trailing", 13), ("trailing", 1)])
def test_ddpm(spacing: str, n: int, kind: str):
    scheduler = DDPMScheduler(**STABLE_DIFFUSION, prediction_type=kind, timestep_spacing=spacing, clip_sample=False)
    wanted = theirs(scheduler, n, start(), generator=torch.Generator().manual_seed(7))
    assert_same_walk(ours("ddpm", VP, kind, make_grid(spacing, VP, n), start()), wanted)


SIGMA_SPACE = {
    "euler": EulerDiscreteScheduler,
    "heun": HeunDiscreteScheduler,
    "dpm2": KDPM2DiscreteScheduler,
    "lms": LMSDiscreteScheduler,
}


@pytest.mark.parametrize(
    ("sampler", "spacing", "kind"),
    [
        (sampler, spacing, kind)
        for sampler, spacing, kind in product(SIGMA_SPACE, ("leading", "linspace", "trailing", "karras"), KINDS)
        # KDPM2 has no `sample`, and on Karras sigmas it rounds the times of its grid but not those between
        if not (sampler == "dpm2" and (spacing == "karras" or kind == "sample"))
    ],
)
def test_sigma_space_schedulers(sampler: str, spacing: str, kind: str):
    even = "linspace" if spacing == "karras" else spacing
    scheduler = SIGMA_SPACE[sampler](
        **STABLE_DIFFUSION, prediction_type=kind, timestep_spacing=even, use_karras_sigmas=spacing == "karras"
    )
    wanted = theirs_scaled(scheduler, 10, start(), order=scheduler.order)
    assert_same_walk(ours(sampler, VP, kind, make_grid(spacing, VP, 10), start()), wanted)


@pytest.mark.parametrize("sampler", SIGMA_SPACE)
def test_sigma_space_schedulers_on_unrounded_linspace(sampler: str):
    # between table entries diffusers is linear in sigma, we (and k-diffusion) in log sigma
    scheduler = SIGMA_SPACE[sampler](**STABLE_DIFFUSION)
    wanted = theirs_scaled(scheduler, 20, start(), order=scheduler.order)
    grid = make_grid("linspace", VP, 20, {"rounded": False})
    assert_same_walk(ours(sampler, VP, "epsilon", grid, start()), wanted, tolerance=3e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing", "karras"])
@pytest.mark.parametrize("n", [1, 2, 10, 20])
def test_dpm_solver(n: int, spacing: str, kind: str):
    even = "linspace" if spacing == "karras" else spacing
    scheduler = DPMSolverMultistepScheduler(
        **STABLE_DIFFUSION, prediction_type=kind, timestep_spacing=even, use_karras_sigmas=spacing == "karras"
    )
    grid = make_grid(spacing, VP, n, {"skip_last": True} if spacing in ("leading", "linspace") else {})
    predict = whole if spacing == "karras" else network
    assert_same_walk(ours("dpmpp_2m", VP, kind, grid, start(), predict), theirs(scheduler, n, start()))


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("n", [10, 14, 15])
def test_dpm_solver_that_stops_at_sigma_min(n: int, lower: bool):
    process = DiscreteVP(final_alpha_one=False)
    scheduler = DPMSolverMultistepScheduler(**STABLE_DIFFUSION, final_sigmas_type="sigma_min", lower_order_final=lower)
    grid = make_grid("linspace", process, n, {"skip_last": True})
    got = ours("dpmpp_2m", process, "epsilon", grid, start(), lower_order_final=lower)
    assert_same_walk(got, theirs(scheduler, n, start()))


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_zero_snr_beside_the_patched_sigma_space(sampler: str):
    # theirs starts at sigma 4096, ours at infinity: 1 / 4096 apart after a step, and the network amplifies it
    made = {"euler": EulerDiscreteScheduler, "dpmpp_2m": DPMSolverMultistepScheduler}[sampler]
    scheduler = made(
        **STABLE_DIFFUSION, prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True
    )
    wanted = (theirs_scaled if sampler == "euler" else theirs)(scheduler, 10, start())
    got = ours(sampler, ZERO_SNR, "v_prediction", make_grid("trailing", ZERO_SNR, 10), start())
    assert_same_walk(got, wanted, tolerance=6e-3)


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("n", [2, 3, 4, 10, 20])
def test_plms(n: int, final: bool):
    process = DiscreteVP(final_alpha_one=final)
    scheduler = PNDMScheduler(**STABLE_DIFFUSION, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=final)
    _, *wanted = theirs(scheduler, n, start())  # the first is only the trial of the first step
    grid = make_grid("leading", process, n, {"offset": 1})
    assert_same_walk(ours("plms", process, "epsilon", grid, start()), wanted)


def transfer(x: Tensor, eps: Tensor, now: float, then: float) -> Tensor:
    """Liu et al. 2022, "PNDM", eq. 9 as it is printed, between two timesteps of Stable Diffusion."""
    now_bar, then_bar = (VP.alpha(t).item() ** 2 for t in (now, then))
    root = (now_bar * (1 - then_bar)) ** 0.5 + (then_bar * (1 - now_bar)) ** 0.5
    return (then_bar / now_bar) ** 0.5 * x - (then_bar - now_bar) / (now_bar**0.5 * root) * eps


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_plms_steps_along_its_own_grid(spacing: str):
    grid = make_grid(spacing, VP, 6)
    x, seen, walked = start(), [], []
    for i, (now, then) in enumerate(zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True)):
        seen.append(network(x, torch.full((2,), now)))
        e = seen[::-1]
        if i == 0:
            trial = transfer(x, e[0], now, then)
            eps = (e[0] + network(trial, torch.full((2,), then))) / 2
        elif i == 1:
            eps = (3 * e[0] - e[1]) / 2
        elif i == 2:
            eps = (23 * e[0] - 16 * e[1] + 5 * e[2]) / 12
        else:
            eps = (55 * e[0] - 59 * e[1] + 37 * e[2] - 9 * e[3]) / 24
        x = transfer(x, eps, now, then)
        walked.append(x)
    assert_same_walk(ours("plms", VP, "epsilon", grid, start()), walked)


def test_plms_mixes_eps_not_v():
    """One function as v and as epsilon draws one picture, diffusers' for epsilon; its picture for v is another."""

    def as_epsilon(x: Tensor, time: Tensor, conditioning: object = None) -> Tensor:
        t = time[0].item()
        return VP.alpha(t).item() * network(x, time) + VP.sigma(t).item() * x

    def walk(scheduler: PNDMScheduler, predict) -> Tensor:
        scheduler.set_timesteps(10)
        x = start()
        for t in scheduler.timesteps:
            x = scheduler.step(predict(x, t.expand(2)), t, x).prev_sample
        return x

    grid = make_grid("leading", VP, 10, {"offset": 1})
    got = ours("plms", VP, "v_prediction", grid, start())
    assert_same_walk(got, ours("plms", VP, "epsilon", grid, start(), as_epsilon))
    settings = {**STABLE_DIFFUSION, "skip_prk_steps": True, "steps_offset": 1, "set_alpha_to_one": True}
    torch.testing.assert_close(got[-1], walk(PNDMScheduler(**settings), as_epsilon), rtol=1e-4, atol=1e-4)
    apart = walk(PNDMScheduler(**settings, prediction_type="v_prediction"), network) - got[-1]
    assert apart.norm() / got[-1].norm() > 0.01


@pytest.mark.parametrize("solver_type", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing", "karras"])
@pytest.mark.parametrize(("n", "kind"), [(1, "epsilon"), (2, "v_prediction"), (10, "epsilon"), (10, "sample")])
def test_unipc(n: int, kind: str, spacing: str, order: int, solver_type: str):
    even = "linspace" if spacing == "karras" else spacing
    scheduler = UniPCMultistepScheduler(
        **STABLE_DIFFUSION,
        prediction_type=kind,
        solver_order=order,
        solver_type=solver_type,
        timestep_spacing=even,
        use_karras_sigmas=spacing == "karras",
    )
    grid = make_grid(spacing, VP, n, {"skip_last": True} if spacing in ("leading", "linspace") else {})
    predict = whole if spacing == "karras" else network
    got = ours("unipc", VP, kind, grid, start(), predict, order=order, solver_type=solver_type)
    wanted = theirs(scheduler, n, start())
    if solver_type == "bh1":
        assert wanted.pop().isnan().all() and got.pop().isfinite().all()
    assert_same_walk(got, wanted)


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("order", [2, 3])
def test_unipc_that_stops_at_sigma_min(order: int, lower: bool):
    process = DiscreteVP(final_alpha_one=False)
    scheduler = UniPCMultistepScheduler(
        **STABLE_DIFFUSION, final_sigmas_type="sigma_min", lower_order_final=lower, solver_order=order
    )
    grid = make_grid("linspace", process, 10, {"skip_last": True})
    got = ours("unipc", process, "epsilon", grid, start(), order=order, lower_order_final=lower)
    assert_same_walk(got, theirs(scheduler, 10, start()))


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(("n", "spacing"), [(1, "linspace"), (10, "linspace"), (10, "trailing"), (16, "linspace")])
def test_deis(n: int, spacing: str, order: int, lower: bool):
    # it always stops at sigma_min, the levels of timestep 0
    process = DiscreteVP(final_alpha_one=False)
    scheduler = DEISMultistepScheduler(
        **STABLE_DIFFUSION, timestep_spacing=spacing, solver_order=order, lower_order_final=lower
    )
    grid = make_grid(spacing, process, n, {"skip_last": True} if spacing == "linspace" else {})
    got = ours("deis", process, "epsilon", grid, start(), order=order, lower_order_final=lower)
    assert_same_walk(got, theirs(scheduler, n, start()))
