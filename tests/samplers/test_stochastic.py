"""Stochastic samplers: the laws of the noise that they keep and draw, for VP, zero-SNR VP, flow and EDM alike."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from spread import Mixture, Sample, Silence, last, spread
from torch import Tensor

from ldm.denoiser import Prediction
from ldm.noise import NoiseSource
from ldm.process import EDM, DiscreteVP, Flow, Process
from ldm.samplers.ancestral import dpm2_ancestral, dpmpp_2s_ancestral, euler_ancestral
from ldm.samplers.consistency import lcm, tcd
from ldm.samplers.ddim_ddpm import ddim, ddpm
from ldm.samplers.dpmpp import dpmpp_2m
from ldm.samplers.edm import dpm2, euler
from ldm.samplers.extended_sde import er_sde
from ldm.samplers.sde import dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_sde
from ldm.samplers.step import levels_at, levels_of
from ldm.schedules import karras, leading, trailing

PROCESSES: dict[str, Process] = {
    "vp": DiscreteVP(),
    "vp_zero_snr": DiscreteVP(zero_terminal_snr=True),
    "flow": Flow(),
    "edm": EDM(),
}
ANCESTRAL: dict[str, Sample] = {
    "euler_ancestral": euler_ancestral,
    "dpm2_ancestral": dpm2_ancestral,
    "dpmpp_2s_ancestral": dpmpp_2s_ancestral,
}
SDE: dict[str, Sample] = {
    "dpmpp_sde": dpmpp_sde,
    "dpmpp_sde, r=1/3": partial(dpmpp_sde, r=1 / 3),
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_2m_sde, heun": partial(dpmpp_2m_sde, solver_type="heun"),
    "dpmpp_3m_sde": dpmpp_3m_sde,
}
EXTENDED: dict[str, Sample] = {
    "er_sde": er_sde,
    "er_sde, two stages": partial(er_sde, max_stage=2),
}
WITH_ETA = ANCESTRAL | SDE | EXTENDED
ALL = WITH_ETA | {"lcm": lcm, "tcd": tcd}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


def each(samplers: dict[str, Sample]):
    return pytest.mark.parametrize("sample", samplers.values(), ids=samplers.keys())


class Torn:
    """A source whose stretches are fresh draws: no path."""

    def __init__(self, source: NoiseSource) -> None:
        self.source = source

    def __call__(self) -> Tensor:
        return self.source()

    def between(self, start: float, end: float) -> Tensor:
        return self.source()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def even_in_lambda(process: Process, n: int) -> Tensor:
    """n + 1 times in even steps of lambda, between signal-to-noise ratios that every process here reaches."""
    return process.time_of_lambda(torch.linspace(-2.5, 3.0, n + 1, dtype=torch.float64))


def closed(process: Process, times: Tensor) -> Tensor:
    """The same with the terminal point."""
    return torch.cat([times, torch.tensor([process.terminal], dtype=torch.float64)])


FIRST_ORDER = {"euler_ancestral": euler_ancestral, "euler_ancestral, eta=1/2": partial(euler_ancestral, eta=0.5)}
SECOND_ORDER = {name: sample for name, sample in WITH_ETA.items() if name != "euler_ancestral"} | {
    "dpmpp_sde, eta=1/2": partial(dpmpp_sde, eta=0.5),
    "dpmpp_2m_sde, eta=1/2": partial(dpmpp_2m_sde, eta=0.5),
}


@pytest.mark.parametrize(
    ("sample", "order"),
    [*((sample, 1) for sample in FIRST_ORDER.values()), *((sample, 2) for sample in SECOND_ORDER.values())],
    ids=[*FIRST_ORDER, *SECOND_ORDER],
)
@every_process
def test_variance_of_gaussian_data_is_reached_at_the_stated_order(sample: Sample, order: int, process: Process):
    errors = []
    for n in (60, 120):
        grid = even_in_lambda(process, n)
        end = levels_of(process, grid)[-1]
        errors.append(abs(spread(sample, process, grid) / math.hypot(end.alpha * 0.5, end.sigma) - 1))
    assert errors[1] < (0.03 if order == 1 else 0.001)
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


@each(SECOND_ORDER)
@every_process
def test_variance_is_right_from_pure_noise_to_the_picture(sample: Sample, process: Process):
    assert spread(sample, process, karras(process, 60)) == pytest.approx(0.5, rel=0.03)


@each(WITH_ETA)
@every_process
def test_mean_of_the_data_is_kept(sample: Sample, process: Process):
    grid = trailing(process, 10)
    start = levels_of(process, grid)[0]
    denoise = Mixture(process)
    shift = 0.7

    def moved(x: Tensor, t: float) -> Prediction:
        alpha = process.alpha(t).item()
        prediction = denoise(x - alpha * shift, t)
        return Prediction(prediction.x0 + shift, prediction.eps)

    moved.process = process  # type: ignore[attr-defined]
    x = torch.full((4,), start.alpha * shift, dtype=torch.float64)
    torch.testing.assert_close(last(sample(moved, x, grid, Silence(x))), torch.full_like(x, shift))


@each(SDE | {"euler_ancestral": euler_ancestral, "ddpm": ddpm})
@every_process
def test_mean_given_the_start_is_the_denoisers(sample: Sample, process: Process):
    """E[x0 | x_T] on the way that the exact reverse SDE takes: without its noise a linear step must stay on it."""
    denoise, grid = Mixture(process), trailing(process, 12)
    x = process.initial(normal(8), grid[0])
    wanted = denoise(x, grid[0].item()).x0
    torch.testing.assert_close(last(sample(denoise, x, grid, Silence(x))), wanted, rtol=1e-9, atol=1e-9)


@each(ALL)
@pytest.mark.parametrize("n", [1, 2, 9])
@every_process
def test_constant_x0_is_where_it_ends(sample: Sample, process: Process, n: int):
    noise = NoiseSource([0, 1], (3, 4, 4))
    for schedule in (leading, trailing, karras):
        grid = schedule(process, n)

        def denoise(x: Tensor, t: float) -> Prediction:
            alpha, sigma = (level.item() for level in process.levels(t))
            return Prediction(torch.full_like(x, 0.37), (x - alpha * 0.37) / sigma)

        denoise.process = process  # type: ignore[attr-defined]
        x = process.initial(noise(), grid[0])
        end = last(sample(denoise, x, grid, noise))
        torch.testing.assert_close(end, torch.full_like(x, 0.37), rtol=0, atol=1e-5)


@every_process
def test_euler_ancestral_is_ddim_with_its_eta_and_ddpm_at_eta_one(process: Process):
    grid, denoise = trailing(process, 12), Mixture(process, centre=1.0)
    x = process.initial(normal(2, 3, 4, 4), grid[0])

    def end(sample: Sample, **options) -> Tensor:
        return last(sample(denoise, x, grid, NoiseSource([3, 4], (3, 4, 4)), **options))

    for eta in (0.0, 0.4, 1.0):
        torch.testing.assert_close(end(euler_ancestral, eta=eta), end(ddim, eta=eta), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(end(euler_ancestral), end(ddpm), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("sample", "deterministic"),
    [
        (euler_ancestral, euler),
        (tcd, euler),
        (dpm2_ancestral, dpm2),
        (dpmpp_2m_sde, dpmpp_2m),
        (partial(dpmpp_2m_sde, lower_order_final=False), partial(dpmpp_2m, lower_order_final=False)),
        (dpmpp_sde, partial(dpmpp_2s_ancestral, eta=0.0)),
    ],
    ids=["euler", "tcd", "dpm2", "dpmpp_2m", "dpmpp_2m, whole order", "dpmpp_2s"],
)
@every_process
def test_eta_zero_is_the_deterministic_sampler(sample: Sample, deterministic: Sample, process: Process):
    denoise = Mixture(process, centre=1.0)
    for grid in (trailing(process, 9), karras(process, 9), even_in_lambda(process, 9)):
        x = process.initial(normal(2, 3, 4, 4), grid[0])
        silence = Silence(x)
        got, wanted = (list(walk(denoise, x, grid, silence)) for walk in (partial(sample, eta=0.0), deterministic))
        assert silence.calls == 0 and not silence.stretches
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a.x, b.x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("sample", "order"),
    [(euler_ancestral, 1), *((sample, 2) for name, sample in WITH_ETA.items() if name != "euler_ancestral")],
    ids=WITH_ETA.keys(),
)
@every_process
def test_error_at_eta_zero_falls_at_the_stated_order(sample: Sample, order: int, process: Process):
    denoise, errors = Mixture(process), []
    for n in (64, 128):
        grid = even_in_lambda(process, n)
        start, *_, end = levels_of(process, grid)
        x = process.initial(normal(8), grid[0])
        exact = x * math.hypot(end.alpha * 0.5, end.sigma) / math.hypot(start.alpha * 0.5, start.sigma)
        errors.append((last(sample(denoise, x, grid, Silence(x), eta=0.0)) - exact).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


@each(SDE | EXTENDED)
@every_process
def test_more_steps_approach_one_picture_because_the_path_is_one(sample: Sample, process: Process):
    denoise = Mixture(process, centre=1.0)

    def picture(n: int, torn: bool = False) -> Tensor:
        source = NoiseSource([5], (4, 8, 8))
        grid = closed(process, even_in_lambda(process, n))
        x = process.initial(source(), grid[0])
        return last(sample(denoise, x, grid, Torn(source) if torn else source))

    limit = picture(240)
    errors = [(picture(n) - limit).square().mean().sqrt().item() for n in (20, 40, 80)]
    assert errors[0] < 0.3 and errors[1] < 0.75 * errors[0] and errors[2] < 0.75 * errors[1], errors
    assert (picture(80, torn=True) - limit).square().mean().sqrt() > 1


@each(WITH_ETA)
def test_processes_draw_one_picture_from_one_noise(sample: Sample):
    """x / alpha is the same for VP, flow and EDM on one grid of lambda: the step is derived once for all."""
    pictures = []
    for process in (PROCESSES["vp"], PROCESSES["flow"], PROCESSES["edm"]):
        grid = even_in_lambda(process, 10)
        x = normal(1, 3, 4, 4) * levels_of(process, grid)[0].sigma
        noise = Torn(NoiseSource([1], (3, 4, 4)))
        *_, end = sample(Mixture(process, centre=1.0), x, grid, noise)
        pictures.append(end.x / process.alpha(end.t).item())
    for picture in pictures[1:]:  # the noise is fp32
        torch.testing.assert_close(picture, pictures[0], rtol=1e-5, atol=1e-5)


@each(ANCESTRAL | SDE)
def test_s_noise_scales_what_is_drawn(sample: Sample):
    process = PROCESSES["vp"]
    assert spread(partial(sample, s_noise=0.0), process, karras(process, 20)) < 0.1
    plain, more = (spread(partial(sample, s_noise=s), process, karras(process, 20)) for s in (1.0, 1.1))
    assert 1.05 < more / plain < 1.1


@each(EXTENDED)
def test_s_noise_scales_what_the_extended_sde_draws_beside_the_noise_it_keeps(sample: Sample):
    process = PROCESSES["vp"]
    none, plain, more = (spread(partial(sample, s_noise=s), process, karras(process, 20)) for s in (0.0, 1.0, 1.1))
    assert more**2 - none**2 == pytest.approx(1.21 * (plain**2 - none**2)) and 0 < none < plain


@pytest.mark.parametrize(
    ("sample", "process", "calls"),
    [
        (euler_ancestral, "vp", 10),
        (dpm2_ancestral, "vp", 19),
        (dpm2_ancestral, "flow", 18),
        (dpmpp_2s_ancestral, "edm", 19),
        (dpmpp_2s_ancestral, "vp_zero_snr", 18),
        (dpmpp_sde, "edm", 19),
        (dpmpp_sde, "flow", 18),
        (dpmpp_2m_sde, "vp", 10),
        (dpmpp_3m_sde, "vp", 10),
        (er_sde, "vp", 10),
        (lcm, "vp", 10),
        (tcd, "vp", 10),
    ],
)
def test_network_calls_of_ten_steps(sample: Sample, process: str, calls: int):
    denoise = Mixture(PROCESSES[process])
    x = normal(1, 3, 4, 4)
    list(sample(denoise, x, trailing(denoise.process, 10), Silence(x)))
    assert denoise.calls == calls


@every_process
def test_each_step_walks_its_own_stretch_of_the_path(process: Process):
    grid, denoise = trailing(process, 10), Mixture(process)
    ends = [level.progress for level in levels_of(process, grid)]
    assert ends[0] == 0 and ends[-1] == 1
    x = normal(1, 3, 4, 4)
    for sample in (dpmpp_2m_sde, dpmpp_3m_sde, er_sde):
        silence = Silence(x)
        list(sample(denoise, x, grid, silence))
        assert silence.stretches == list(pairwise(ends[:-1]))
    silence = Silence(x)
    list(dpmpp_sde(denoise, x, grid, silence))
    whole = [stretch for stretch in silence.stretches if stretch[1] in ends]
    staged = [stretch for stretch in silence.stretches if stretch[1] not in ends]
    assert whole == list(pairwise(ends[:-1]))
    assert [start for start, _ in staged] == [now.progress for now in levels_of(process, grid)[:-2] if now.alpha > 0]


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        *((partial(sample, eta=-0.5), "eta=-0.5") for sample in WITH_ETA.values()),
        (partial(tcd, eta=1.5), "eta=1.5"),
        (partial(er_sde, max_stage=4), "max_stage=4"),
        (partial(dpmpp_sde, r=0.0), "r=0.0"),
        (partial(dpmpp_sde, r=1.5), "r=1.5"),
        (partial(dpmpp_2m_sde, solver_type="middle"), "unknown solver_type 'middle'; known: midpoint, heun"),
    ],
)
def test_options_out_of_range_are_refused(sample: Sample, words: str):
    process = PROCESSES["vp"]
    x = normal(1, 3, 4, 4)
    with pytest.raises(ValueError, match=words):
        next(sample(Mixture(process), x, trailing(process, 4), Silence(x)))


def test_levels_at_are_the_levels_of_their_lambdas():
    for process in PROCESSES.values():
        lams = (-2.5, 0.0, 2.9)
        for lam, level in zip(lams, levels_at(process, lams), strict=True):
            assert level.lam == pytest.approx(lam)
            assert level == levels_of(process, torch.tensor([level.t], dtype=torch.float64))[0]
