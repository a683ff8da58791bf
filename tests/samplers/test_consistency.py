"""LCM and TCD: a jump to the picture and back, beside diffusers' schedulers.

Known-wrong corners of diffusers 0.42.1 that these tests stay clear of: `LCMScheduler` mixes x into x0 by c_skip(t),
which is 1 at timestep 0, so that a grid that visits it denoises nothing there; `TCDScheduler` ends at timestep 0, whose
noise (sigma 0.03) stays in the picture; we end there with `final_alpha_one=False` alone.
"""

import math
from functools import partial

import pytest
import torch
from diffusers import LCMScheduler, TCDScheduler
from torch import Tensor

from ldm.denoiser import NetworkDenoiser, Prediction
from ldm.noise import NoiseSource
from ldm.process import EDM, DiscreteVP, Flow, Process
from ldm.samplers.consistency import lcm, tcd
from ldm.samplers.step import levels_of
from ldm.schedules import trailing

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
VP = DiscreteVP()
WEIGHT = torch.randn(3, 3, 3, 3, generator=torch.Generator().manual_seed(0)) / 4


def network(x: Tensor, time: Tensor, conditioning: object = None) -> Tensor:
    """A smooth function of x and time."""
    shift = (time.float() / 300)[:, None, None, None]
    return torch.tanh(torch.nn.functional.conv2d(x, WEIGHT, padding=1) + shift.sin())


def dummy(x: Tensor, time: Tensor, conditioning: object = None) -> Tensor:
    """diffusers' dummy model."""
    t = time[:, None, None, None]
    return x * t / (t + 1)


def ramp() -> Tensor:
    """`dummy_sample_deter` of diffusers' tests, `(4, 3, 8, 8)`."""
    return (torch.arange(768).reshape(3, 8, 8, 4) / 768).permute(3, 0, 1, 2)


class Draws:
    """One generator for all images, as diffusers draws; `between` is not called."""

    def __init__(self, seed: int, *shape: int) -> None:
        self.generator, self.shape = torch.Generator().manual_seed(seed), shape

    def __call__(self) -> Tensor:
        return torch.randn(self.shape, generator=self.generator)

    def between(self, start: float, end: float) -> Tensor:
        raise AssertionError("LCM and TCD draw freely")


def theirs(scheduler, n: int, x: Tensor, **options) -> tuple[list[Tensor], Tensor]:
    """x after every step, and their timesteps."""
    scheduler.set_timesteps(n)
    generator, walked = torch.Generator().manual_seed(7), []
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.expand(2)), t, x, generator=generator, **options).prev_sample
        walked.append(x)
    return walked, scheduler.timesteps


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("n", [1, 2, 4, 5, 10])
def test_lcm_beside_diffusers(n: int, kind: str):
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    wanted, times = theirs(LCMScheduler(**STABLE_DIFFUSION, prediction_type=kind), n, x)
    grid = torch.cat([times.double(), torch.tensor([-1.0])])
    if 50 % n == 0:
        assert torch.equal(grid, trailing(VP, n))
    denoise = NetworkDenoiser(network, VP, kind)
    for step, theirs_x in zip(lcm(denoise, x, grid, Draws(7, 2, 3, 8, 8)), wanted, strict=True):
        torch.testing.assert_close(step.x, theirs_x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("n", "published"), [(1, 18.709678649902344), (10, 197.7616424560547)])
def test_lcm_full_loop(n: int, published: float):
    denoise = NetworkDenoiser(dummy, VP, "epsilon")
    *_, end = lcm(denoise, ramp(), trailing(VP, n), Draws(0, 4, 3, 8, 8))
    assert end.x.abs().sum().item() == pytest.approx(published, rel=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("eta", [0.0, 0.3, 0.75, 1.0])
@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_tcd_beside_diffusers(n: int, eta: float, kind: str):
    process = DiscreteVP(final_alpha_one=False)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    wanted, times = theirs(TCDScheduler(**STABLE_DIFFUSION, prediction_type=kind, clip_sample=False), n, x, eta=eta)
    grid = torch.cat([times.double(), torch.tensor([-1.0])])
    denoise = NetworkDenoiser(network, process, kind)
    for step, theirs_x in zip(tcd(denoise, x, grid, Draws(7, 2, 3, 8, 8), eta=eta), wanted, strict=True):
        torch.testing.assert_close(step.x, theirs_x, rtol=1e-4, atol=1e-4)


def two_pictures(process: Process):
    """The exact denoiser of data that is 1 or -1."""

    def denoise(x: Tensor, t: float) -> Prediction:
        alpha, sigma = (level.item() for level in process.levels(t))
        x0 = torch.tanh(alpha * x / sigma**2)
        return Prediction(x0, (x - alpha * x0) / sigma)

    denoise.process = process  # type: ignore[attr-defined]
    return denoise


@pytest.mark.parametrize(
    "process", [VP, DiscreteVP(zero_terminal_snr=True), Flow(), EDM()], ids=["vp", "vp_zero_snr", "flow", "edm"]
)
def test_steps_keep_the_stated_share_of_the_noise(process: Process):
    grid, denoise = trailing(process, 4), two_pictures(process)
    start = process.initial(torch.randn(1, 3, 4, 4, dtype=torch.float64), grid[0])
    for eta, sample in ((None, lcm), (0.3, partial(tcd, eta=0.3)), (1.0, partial(tcd, eta=1.0))):
        again, x = NoiseSource([2], (3, 4, 4)), start
        for i, step in enumerate(sample(denoise, x, grid, NoiseSource([2], (3, 4, 4)))):
            now, then = levels_of(process, grid[i : i + 2])
            x0, eps = denoise(x, now.t).x0, denoise(x, now.t).eps
            if then.sigma == 0:
                assert torch.equal(step.x, x0)
                continue
            share = 0.0
            if eta is not None:
                index = (1 - eta) * process.index_of_time(then.t)
                jump = process.time_of_index(index.floor() if process.integer_times else index)
                share = (process.sigma(jump) / process.alpha(jump)).item() / (then.sigma / then.alpha)
            wanted = then.alpha * x0 + then.sigma * (share * eps + math.sqrt(1 - share**2) * again())
            torch.testing.assert_close(step.x, wanted, rtol=1e-5, atol=1e-5)
            x = step.x


def test_one_step_is_the_picture_that_the_network_sees():
    process = DiscreteVP(zero_terminal_snr=True)
    denoise = NetworkDenoiser(network, process, "v_prediction")
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for sample in (lcm, tcd):
        (step,) = sample(denoise, x, trailing(process, 1), Draws(0))
        assert torch.equal(step.x, denoise(x, 999.0).x0)
