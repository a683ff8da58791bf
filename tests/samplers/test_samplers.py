"""Samplers: their order on Gaussian data, their ends, and what they share, for VP, zero-SNR VP, flow and EDM alike."""

import inspect
import math
import re
from itertools import pairwise

import pytest
import torch
from gaussian import (
    PROCESSES,
    Draws,
    GaussianDenoiser,
    Tabled,
    different_grids,
    even_in_lambda,
    last,
    no_noise,
    normal,
)
from torch import Tensor, nn

from ldm.denoiser import NetworkDenoiser, Prediction, target
from ldm.noise import NoiseSource
from ldm.process import DiscreteVP, Flow, Process
from ldm.samplers import INVERSIONS, SAMPLER_TABLE, SAMPLERS, ddim, ddpm, dpmpp_2m, euler, heun, levels_of, make_sampler
from ldm.schedules import linear_quadratic, linspace, trailing

every_sampler = pytest.mark.parametrize("name", SAMPLERS)
REPEATING = DiscreteVP(final_alpha_one=False)
"""Its last point repeats the levels of timestep 0: a last step that changes nothing."""
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


class Network(nn.Module):
    """A small network that hears the time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, conditioning: object) -> Tensor:
        return torch.tanh(self.conv(x) + time[:, None, None, None] / 1000)


@pytest.mark.parametrize("sample", [ddpm, lambda *a: ddim(*a, eta=0.5), lambda *a: ddim(*a, eta=1.0)])
@every_process
def test_stochastic_samplers_reach_the_right_mean_and_variance(sample, process: Process):
    generator = torch.Generator().manual_seed(0)
    grid = linspace(process, 400)
    x = process.initial(torch.randn(10_000, generator=generator), grid[0])
    end = last(
        sample(
            GaussianDenoiser(Tabled(process, grid)), x, grid, Draws(lambda: torch.randn(10_000, generator=generator))
        )
    )
    assert end.mean().item() == pytest.approx(0.7, abs=0.02)
    assert end.std().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("n", [1, 2, 3, 25])
@every_process
@every_sampler
def test_constant_x0_is_where_it_ends(name: str, process: Process, n: int):
    noise = NoiseSource([0, 1], (3, 4, 4))
    for grid in different_grids(process, n):
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-9)):
            # lms and plms extrapolate slopes over a step that is hundreds of times the last, and their rounding with it
            if dtype is torch.float32 and name in ("lms", "plms") and torch.equal(grid, linear_quadratic(process, n)):
                continue
            denoise = GaussianDenoiser(Tabled(process, grid), mean=0.37, std=0.0)
            x = process.initial(noise().to(dtype), grid[0])
            end = last(SAMPLERS[name](denoise, x, grid, noise))
            torch.testing.assert_close(end, torch.full_like(x, 0.37), rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 3, 4, 9, 10, 27, 50, 999, 1000])
@pytest.mark.parametrize("process", [*PROCESSES.values(), REPEATING], ids=[*PROCESSES, "vp_repeating"])
def test_every_sampler_on_every_schedule_is_finite(process: Process, n: int):
    for grid in different_grids(process, n):
        assert len(grid) == n + 1 and grid[-1] == process.terminal and bool((grid.diff() < 0).all())
        denoise = GaussianDenoiser(Tabled(process, grid))
        start = math.hypot(*denoise.levels(grid[0].item()))  # one number is a picture, which is quicker
        for name, sample in SAMPLERS.items():
            *_, step = sample(denoise, start, grid, Draws(lambda: 1.0))
            assert math.isfinite(step.x) and abs(step.x) < 200, (name, grid)


@every_process
def test_euler_is_ddim_is_the_textbook_step(process: Process):
    grid, denoise = linspace(process, 12), GaussianDenoiser(process)
    x = process.initial(normal(2, 3, 4, 4, dtype=torch.float64), grid[0])
    steps = list(euler(denoise, x, grid, no_noise))
    assert all(torch.equal(a.x, b.x) for a, b in zip(steps, ddim(denoise, x, grid, no_noise), strict=True))
    points = levels_of(process, grid)
    for (now, then), before, after in zip(pairwise(points[1:]), steps[:-1], steps[1:], strict=True):
        # Karras et al. 2022, eq. 4: d(x / alpha) / d(sigma / alpha) = (x / alpha - x0) / (sigma / alpha)
        scaled, ratio = before.x / now.alpha, now.sigma / now.alpha
        slope = (scaled - after.prediction.x0) / ratio
        wanted = then.alpha * (scaled + (then.sigma / then.alpha - ratio) * slope)
        torch.testing.assert_close(after.x, wanted)
        if isinstance(process, Flow):  # Liu et al. 2022: dx / dt = eps - x0
            velocity = after.prediction.eps - after.prediction.x0
            torch.testing.assert_close(after.x, before.x + (then.t - now.t) * velocity)


@every_process
def test_ddpm_is_ddim_with_eta_one(process: Process):
    grid, denoise = trailing(process, 12), GaussianDenoiser(process)
    x = process.initial(normal(2, 3, 4, 4), grid[0])
    first, second = (NoiseSource([3, 4], (3, 4, 4)) for _ in range(2))
    wanted = last(ddpm(denoise, x, grid, first))
    torch.testing.assert_close(last(ddim(denoise, x, grid, second, eta=1.0)), wanted, rtol=1e-5, atol=1e-5)


@every_process
@every_sampler
def test_epsilon_v_x0_and_flow_forms_of_one_function_draw_one_picture(name: str, process: Process):
    grid = trailing(process, 10)
    truth = GaussianDenoiser(Tabled(process, grid))
    load_options, pictures = [], []

    class Denoiser(NetworkDenoiser):
        def __call__(self, x: Tensor, t: float) -> Prediction:
            load_options.append(t)
            return super().__call__(x, t)

    for kind in ("epsilon", "v_prediction", "sample", "flow"):
        if kind == "epsilon" and process.alpha(process.start) == 0:
            continue

        def network(seen: Tensor, time: Tensor, conditioning: object, kind: str = kind) -> Tensor:
            t = load_options[-1]
            assert time[0].item() == pytest.approx(process.model_time(t).item())
            x = seen / process.scale_input(torch.ones(1), t)
            prediction = truth(x, t)
            return target(prediction.x0, prediction.eps, *truth.levels(t), kind)

        noise = NoiseSource([5], (3, 4, 4))
        x = process.initial(noise(), grid[0])
        pictures.append(last(SAMPLERS[name](Denoiser(network, process, kind), x, grid, noise)))
    assert len(pictures) >= 3
    for picture in pictures[1:]:
        torch.testing.assert_close(picture, pictures[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("process", [PROCESSES["vp_zero_snr"], PROCESSES["flow"]], ids=["vp_zero_snr", "flow"])
@every_sampler
def test_image_of_a_batch_is_the_image_of_its_seed(name: str, process: Process):
    denoise = NetworkDenoiser(Network().requires_grad_(False), process, "v_prediction")
    grid = trailing(process, 8)

    def draw(seeds: list[int]) -> Tensor:
        noise = NoiseSource(seeds, (3, 8, 8))
        return last(SAMPLERS[name](denoise, process.initial(noise(), grid[0]), grid, noise))

    batch = draw([7, 8, 9])
    for i, seed in enumerate([7, 8, 9]):
        torch.testing.assert_close(batch[i : i + 1], draw([seed]), rtol=0, atol=1e-4)
    assert (batch[0] - batch[1]).abs().max() > 0.1


@every_sampler
def test_steps_say_where_they_are(name: str):
    process = PROCESSES["vp_zero_snr"]
    grid, denoise = trailing(process, 5), GaussianDenoiser(process)
    x = normal(1, 3, 4, 4)
    options = {"restarts": 0} if name == "restart" else {}  # the steps of a restart are its own
    steps = list(SAMPLERS[name](denoise, x, grid, Draws(lambda: torch.zeros_like(x)), **options))
    assert [step.index for step in steps] == [0, 1, 2, 3, 4] and {step.total for step in steps} == {5}
    assert [step.t for step in steps] == grid[1:].tolist()
    for t, before, step in zip(grid.tolist(), [x, *(step.x for step in steps)], steps, strict=False):
        assert torch.equal(step.prediction.x0, denoise(before, t).x0)


@every_sampler
def test_samplers_share_no_state(name: str):
    process = PROCESSES["vp"]
    grid, denoise = trailing(process, 6), GaussianDenoiser(process)
    starts = [normal(1, 3, 4, 4, seed=seed) for seed in (1, 2)]

    def run(i: int):
        return SAMPLERS[name](denoise, starts[i], grid, NoiseSource([i], (3, 4, 4)))

    woven = [(a.x, b.x) for a, b in zip(run(0), run(1), strict=True)]
    assert torch.equal(woven[-1][0], last(run(0))) and torch.equal(woven[-1][1], last(run(1)))


@every_sampler
def test_gradients_flow_through_the_whole_walk(name: str):
    process = PROCESSES["vp_zero_snr"]
    x = normal(1, 3, 4, 4).requires_grad_()
    denoise = NetworkDenoiser(Network(), process, "v_prediction")
    last(SAMPLERS[name](denoise, x, trailing(process, 4), NoiseSource([0], (3, 4, 4)))).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all() and x.grad.abs().max() > 0


@every_process
@every_sampler
def test_network_calls_of_a_step_are_as_stated(name: str, process: Process):
    denoise, x = GaussianDenoiser(process), normal(1, 3, 4, 4)
    steps = list(SAMPLERS[name](denoise, x, trailing(process, 10), Draws(lambda: x)))
    from_pure_noise = denoise.process.alpha(process.start) == 0
    calls = SAMPLER_TABLE[name].calls * len(steps)
    if SAMPLER_TABLE[name].calls == 2:  # one in the step to sigma = 0, and in one from alpha = 0
        calls -= 2 if from_pure_noise else 1
    if name == "heunpp2":  # two in the last but one, one in the last, and one from alpha = 0
        calls -= 5 if from_pure_noise else 3
    if name == "plms":  # its first step, after one from alpha = 0, is Heun's
        calls += 1
    assert denoise.calls == calls


@every_sampler
def test_a_sampler_is_stochastic_or_not_as_stated(name: str):
    process, x, drawn = PROCESSES["vp"], normal(1, 3, 4, 4), []
    noise = Draws(lambda: drawn.append(1) or torch.zeros_like(x))
    last(SAMPLERS[name](GaussianDenoiser(process), x, trailing(process, 10), noise))
    assert bool(drawn) is SAMPLER_TABLE[name].stochastic


def test_every_sampler_is_described():
    assert set(SAMPLER_TABLE) == {*SAMPLERS, *INVERSIONS}
    assert all(about.advice and "\n" not in about.advice for about in SAMPLER_TABLE.values())


def test_lower_order_final_matters_for_few_steps_that_stop_above_sigma_zero():
    process = PROCESSES["vp"]
    x, denoise = normal(8), GaussianDenoiser(process)
    for n, matters in ((10, True), (14, True), (15, False)):
        grid = even_in_lambda(process, n)
        *before, end = dpmpp_2m(denoise, x, grid, no_noise)
        _, *before_plain, end_plain = dpmpp_2m(denoise, x, grid, no_noise, lower_order_final=False)
        assert torch.equal(before[-1].x, before_plain[-1].x)
        assert torch.equal(end.x, end_plain.x) is not matters
        if matters:
            torch.testing.assert_close(end.x, last(ddim(denoise, before[-1].x, grid[-2:], no_noise)))
    to_picture = trailing(process, 5)
    ends = [last(dpmpp_2m(denoise, x, to_picture, no_noise, lower_order_final=lower)) for lower in (True, False)]
    assert torch.equal(*ends)


def test_heun_agrees_with_its_textbook_form():
    process = PROCESSES["edm"]
    grid, denoise = linspace(process, 6), GaussianDenoiser(process)
    x = process.initial(normal(8, dtype=torch.float64), grid[0])
    got = [step.x for step in heun(denoise, x, grid, no_noise)]
    for i, (sigma, following) in enumerate(pairwise(grid.tolist())):  # Karras et al. 2022, algorithm 1
        slope = (x - denoise(x, sigma).x0) / sigma
        trial = x + (following - sigma) * slope
        if following > 0:
            trial = x + (following - sigma) * (slope + (trial - denoise(trial, following).x0) / following) / 2
        x = trial
        torch.testing.assert_close(got[i], x)


@pytest.mark.parametrize("sampler", [*SAMPLERS.values(), *INVERSIONS.values()])
def test_a_sampler_fits_in_45_lines(sampler):
    assert len(inspect.getsource(sampler).splitlines()) <= 45


def test_make_sampler_fills_in_options():
    process, x = PROCESSES["vp"], normal(1, 3, 4, 4)
    grid, denoise = trailing(process, 5), GaussianDenoiser(process)
    wanted = last(ddim(denoise, x, grid, NoiseSource([0], (3, 4, 4)), eta=0.5))
    got = last(make_sampler("ddim", {"eta": 0.5})(denoise, x, grid, NoiseSource([0], (3, 4, 4))))
    assert torch.equal(got, wanted)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: make_sampler("eular"), ["unknown sampler 'eular'", "did you mean 'euler'"]),
        (lambda: make_sampler("zzz"), ["'zzz'", "known: ddim, ddpm, deis, dpm2,"]),
        (lambda: make_sampler("euler", {"eta": 1.0}), ["sampler 'euler' has no option 'eta'"]),
        (lambda: next(ddim(GaussianDenoiser(DiscreteVP()), normal(1), trailing(DiscreteVP(), 2), no_noise, eta=2.0)),
         ["eta=2.0"]),
    ],
)  # fmt: skip
def test_errors_offer_the_nearest_name(make, words: list[str]):
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        make()
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("name", [name for name, about in SAMPLER_TABLE.items() if about.stochastic])
@every_process
def test_more_steps_of_a_seed_approach_one_picture_unless_noise_is_fresh(process: Process, name: str):
    many = 640 if name == "er_sde" else 160  # its noise changes fastest next to pure noise, where steps are long

    def draw(n: int) -> Tensor:
        grid, noise = trailing(process, n), NoiseSource([0], (4000,))
        denoise = GaussianDenoiser(Tabled(process, grid))
        return last(SAMPLERS[name](denoise, process.initial(noise(), grid[0]), grid, noise))

    apart = [((draw(n) - draw(n + n // 4)).square().mean().sqrt() / 0.5).item() for n in (40, many)]
    if SAMPLER_TABLE[name].noise == "fresh":
        assert apart[1] > 0.5 and apart[1] > apart[0]
    else:
        assert apart[1] < 0.15 and apart[1] < max(0.65 * apart[0], 0.002)
