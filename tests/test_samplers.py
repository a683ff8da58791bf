"""Samplers: their order on Gaussian data, their ends, and what they share, for VP, zero-SNR VP, flow and EDM alike."""

import inspect
import math
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor, nn

from ldm.denoiser import NetworkDenoiser, Prediction, target
from ldm.noise import NoiseSource
from ldm.process import EDM, DiscreteVP, Flow, Process
from ldm.samplers import SAMPLERS, ddim, ddpm, dpmpp_2m, euler, heun, levels_of, make_sampler
from ldm.schedules import SCHEDULES, linspace, make_grid, trailing

PROCESSES: dict[str, Process] = {
    "vp": DiscreteVP(),
    "vp_zero_snr": DiscreteVP(zero_terminal_snr=True),
    "flow": Flow(),
    "edm": EDM(),
}
ORDER = {"euler": 1, "ddim": 1, "heun": 2, "dpmpp_2m": 2}
every_sampler = pytest.mark.parametrize("name", SAMPLERS)
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


class GaussianDenoiser:
    """The exact denoiser of data N(mean, std^2), whose probability-flow ODE is solved in closed form.

    x_t is N(alpha mean, alpha^2 std^2 + sigma^2), and the ODE keeps its standardised value.
    """

    def __init__(self, process: Process, mean: float = 0.7, std: float = 0.5) -> None:
        self.process, self.mean, self.std = process, mean, std
        self.calls = 0

    def __call__(self, x: Tensor, t: float) -> Prediction:
        self.calls += 1
        alpha, sigma = self.levels(t)
        centred = (x - alpha * self.mean) / (alpha**2 * self.std**2 + sigma**2)
        return Prediction(self.mean + alpha * self.std**2 * centred, sigma * centred)

    def levels(self, t: float) -> tuple[float, float]:
        alpha, sigma = self.process.levels(t)
        return alpha.item(), sigma.item()

    def carry(self, x: Tensor, t: float, end: float) -> Tensor:
        """Where the ODE takes x from time t to `end`."""
        alpha, sigma = self.levels(t)
        standard = (x - alpha * self.mean) / math.hypot(alpha * self.std, sigma)
        alpha, sigma = self.levels(end)
        return alpha * self.mean + math.hypot(alpha * self.std, sigma) * standard


class GridDenoiser(GaussianDenoiser):
    """The same with the levels of one grid at hand, for grids of a thousand steps."""

    def __init__(self, process: Process, grid: Tensor, mean: float, std: float) -> None:
        super().__init__(process, mean, std)
        self._levels = {level.t: (level.alpha, level.sigma) for level in levels_of(process, grid)}

    def levels(self, t: float) -> tuple[float, float]:
        return self._levels[t]


class Network(nn.Module):
    """A small network that hears the time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, conditioning: object) -> Tensor:
        return torch.tanh(self.conv(x) + time[:, None, None, None] / 1000)


def no_noise() -> Tensor:
    raise AssertionError("a deterministic sampler drew noise")


def last(steps) -> Tensor:
    """The x at which a sampler ends."""
    *_, step = steps
    return step.x


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def even_in_lambda(process: Process, n: int) -> Tensor:
    """n + 1 times in even steps of lambda, between signal-to-noise ratios that every process here reaches."""
    return process.time_of_lambda(torch.linspace(-2.5, 3.0, n + 1, dtype=torch.float64))


def even_in_angle(process: Process, n: int) -> Tensor:
    """n + 1 times in even steps of atan(sigma / alpha), from pure noise."""
    angles = torch.linspace(math.pi / 2, 0.1, n + 1, dtype=torch.float64)
    return torch.cat([torch.tensor([process.start]), process.time_of_lambda(-angles[1:].tan().log())])


def slopes(name: str, process: Process, make, counts: tuple[int, ...]) -> list[float]:
    """How the error against the exact solution falls, as the power of the step count, between neighbouring counts."""
    errors = []
    for n in counts:
        grid, denoise = make(process, n), GaussianDenoiser(process)
        x = process.initial(normal(8, dtype=torch.float64), grid[0])
        exact = denoise.carry(x, grid[0].item(), grid[-1].item())
        errors.append((last(SAMPLERS[name](denoise, x, grid, no_noise)) - exact).abs().max().item())
    return [
        math.log(a / b) / math.log(m / n) for (a, b), (n, m) in zip(pairwise(errors), pairwise(counts), strict=True)
    ]


@every_process
@pytest.mark.parametrize("name", ORDER)
def test_error_on_gaussian_data_falls_at_the_stated_order(name: str, process: Process):
    assert slopes(name, process, even_in_lambda, (16, 32, 64, 128)) == pytest.approx([ORDER[name]] * 3, abs=0.25)


@pytest.mark.parametrize(
    ("process", "make"),
    [(Flow(), linspace), (EDM(), linspace), (DiscreteVP(zero_terminal_snr=True), even_in_angle)],
    ids=["flow, noise to picture", "edm, noise to picture", "vp from zero snr"],
)
@pytest.mark.parametrize("name", ORDER)
def test_order_survives_the_infinite_ends(name: str, process: Process, make):
    assert slopes(name, process, make, (32, 48, 64, 96)) == pytest.approx([ORDER[name]] * 3, abs=0.25)


@pytest.mark.parametrize("sample", [ddpm, lambda *a: ddim(*a, eta=0.5), lambda *a: ddim(*a, eta=1.0)])
@every_process
def test_stochastic_samplers_reach_the_right_mean_and_variance(sample, process: Process):
    generator = torch.Generator().manual_seed(0)
    grid = linspace(process, 400)
    x = process.initial(torch.randn(10_000, generator=generator), grid[0])
    end = last(sample(GridDenoiser(process, grid, 0.7, 0.5), x, grid, lambda: torch.randn(10_000, generator=generator)))
    assert end.mean().item() == pytest.approx(0.7, abs=0.02)
    assert end.std().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("n", [1, 2, 3, 25])
@every_process
@every_sampler
def test_constant_x0_is_where_it_ends(name: str, process: Process, n: int):
    noise = NoiseSource([0, 1], (3, 4, 4))
    for schedule in SCHEDULES:
        grid = make_grid(schedule, process, n)
        denoise = GridDenoiser(process, grid, mean=0.37, std=0.0)
        x = process.initial(noise(), grid[0])
        torch.testing.assert_close(
            last(SAMPLERS[name](denoise, x, grid, noise)), torch.full_like(x, 0.37), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("n", [1, 2, 3, 4, 9, 10, 27, 50, 999, 1000])
@pytest.mark.parametrize(
    "process", [*PROCESSES.values(), DiscreteVP(final_alpha_one=False)], ids=[*PROCESSES, "vp_final"]
)
def test_every_sampler_on_every_schedule_is_finite(process: Process, n: int):
    start = normal(1, 1, 2, 2)
    different = {tuple(grid.tolist()): grid for grid in (make_grid(schedule, process, n) for schedule in SCHEDULES)}
    for grid, name in product(different.values(), SAMPLERS):
        denoise = GridDenoiser(process, grid, mean=0.7, std=0.5)
        end = last(SAMPLERS[name](denoise, process.initial(start, grid[0]), grid, lambda: start))
        assert torch.isfinite(end).all() and end.abs().max() < 200, (name, grid)


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
    truth = GridDenoiser(process, grid, mean=0.7, std=0.5)
    time_told = {process.model_time(t).float().item(): t for t in grid[:-1].tolist()}
    pictures = []
    for kind in ("epsilon", "v_prediction", "sample", "flow"):
        if kind == "epsilon" and process.alpha(process.start) == 0:
            continue

        def network(seen: Tensor, time: Tensor, conditioning: object, kind: str = kind) -> Tensor:
            t = time_told[time[0].item()]
            x = seen / process.scale_input(torch.ones(1), t)
            prediction = truth(x, t)
            return target(prediction.x0, prediction.eps, *truth.levels(t), kind)

        noise = NoiseSource([5], (3, 4, 4))
        x = process.initial(noise(), grid[0])
        pictures.append(last(SAMPLERS[name](NetworkDenoiser(network, process, kind), x, grid, noise)))
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
    steps = list(SAMPLERS[name](denoise, x, grid, lambda: torch.zeros_like(x)))
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


@pytest.mark.parametrize(
    ("name", "process", "calls"),
    [
        ("ddpm", "vp", 10), ("ddim", "vp", 10), ("euler", "flow", 10), ("dpmpp_2m", "edm", 10),
        ("heun", "vp", 19), ("heun", "edm", 19), ("heun", "vp_zero_snr", 18), ("heun", "flow", 18),
    ],
)  # fmt: skip
def test_network_calls_of_ten_steps(name: str, process: str, calls: int):
    denoise = GaussianDenoiser(PROCESSES[process])
    x = normal(1, 3, 4, 4)
    list(SAMPLERS[name](denoise, x, trailing(denoise.process, 10), lambda: x))
    assert denoise.calls == calls


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


@every_sampler
def test_a_sampler_fits_in_45_lines(name: str):
    assert len(inspect.getsource(SAMPLERS[name]).splitlines()) <= 45


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
        (lambda: make_sampler("zzz"), ["'zzz'", "known: ddim, ddpm, dpmpp_2m, euler, heun"]),
        (lambda: make_sampler("euler", {"eta": 1.0}), ["sampler 'euler' has no option 'eta'"]),
        (lambda: next(ddim(GaussianDenoiser(DiscreteVP()), normal(1), trailing(DiscreteVP(), 2), no_noise, eta=2.0)),
         ["eta=2.0"]),
    ],
)  # fmt: skip
def test_errors_offer_the_nearest_name(make, words: list[str]):
    with pytest.raises(ValueError) as error:
        make()
    assert all(word in str(error.value) for word in words), error.value
