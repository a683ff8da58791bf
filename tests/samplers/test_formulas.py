"""Samplers that no library at hand has, step by step beside their formulas as published, in sigma / alpha."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from gaussian import PROCESSES, GaussianDenoiser, even_in_lambda, last, no_noise, normal
from spread import Mixture, Silence
from torch import Tensor

from ldm.denoiser import Prediction
from ldm.generation.sampler_names import resolve
from ldm.process import EDM, DiscreteVP, Flow, Process
from ldm.samplers import SAMPLERS, make_sampler
from ldm.samplers.adams import gradient_estimation, ipndm, ipndm_v, lms
from ldm.samplers.edm import euler, heunpp2
from ldm.samplers.extended_sde import er_sde
from ldm.schedules import karras

X0 = Callable[[Tensor, float], Tensor]
"""(x / alpha, sigma / alpha) -> x0."""
PUBLISHED = [EDM(), DiscreteVP(), Flow()]
every_process = pytest.mark.parametrize("process", PUBLISHED, ids=["edm", "vp", "flow"])
SIGMAS = [10.0, 5.1, 2.6, 1.9, 0.8, 0.31, 0.1]
"""Uneven on purpose."""


def x0_of(x: Tensor, sigma: float) -> Tensor:
    """A smooth function with neighbours mixed."""
    seen = x / math.hypot(1, sigma)
    return torch.tanh(seen + seen.flip(-1) / 2) + math.cos(math.log1p(sigma)) / 5


class Model:
    """The same as a denoiser of any process."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def __call__(self, x: Tensor, t: float) -> Prediction:
        alpha, sigma = (level.item() for level in self.process.levels(t))
        x0 = x0_of(x / alpha, sigma / alpha)
        return Prediction(x0, (x - alpha * x0) / sigma)


def assert_walk(
    name: str, process: Process, wanted: list[Tensor], sigmas: list[float], noise=no_noise, **options
) -> None:
    """A sampler's x / alpha after every step."""
    grid = process.time_of_lambda(-torch.tensor(sigmas, dtype=torch.float64).log()).nan_to_num(process.terminal)
    grid[-1] = process.terminal if sigmas[-1] == 0 else grid[-1]
    scales = process.alpha(grid)
    steps = list(SAMPLERS[name](Model(process), scales[0] * start(), grid, noise, **options))
    for i, (step, scale, x) in enumerate(zip(steps, scales[1:], wanted, strict=True)):
        torch.testing.assert_close(step.x / scale, x, rtol=1e-6, atol=1e-6, msg=lambda m, i=i: f"step {i}: {m}")


def start() -> Tensor:
    return 10 * normal(2, 3, dtype=torch.float64)


def slope(x: Tensor, sigma: float) -> Tensor:
    """k-diffusion's `to_d`."""
    return (x - x0_of(x, sigma)) / sigma


def walk(mean: Callable[[list[Tensor], int], Tensor], sigmas: list[float]) -> list[Tensor]:
    """x after every step of length h along `mean(slopes so far, newest first, index)`; to sigma = 0 it is x0."""
    x, slopes, walked = start(), [], []
    for index, (sigma, following) in enumerate(pairwise(sigmas)):
        slopes = [slope(x, sigma), *slopes]
        x = x0_of(x, sigma) if following == 0 else x + (following - sigma) * mean(slopes, index)
        walked.append(x)
    return walked


def even_rule(slopes: list[Tensor], order: int) -> Tensor:
    """Zhang and Chen 2023, "DEIS", table of iPNDM."""
    weights = [[1.0], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]]
    chosen = weights[min(len(slopes), order) - 1]
    return sum(weight * value for weight, value in zip(chosen, slopes, strict=False))  # type: ignore[return-value]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@every_process
def test_ipndm(process: Process, order: int):
    sigmas = [*SIGMAS, 0.0]
    assert_walk("ipndm", process, walk(lambda slopes, _: even_rule(slopes, order), sigmas), sigmas, order=order)


@every_process
def test_ipndm_v_of_order_two_is_the_published_rule(process: Process):
    sigmas = [*SIGMAS, 0.0]

    def uneven(slopes: list[Tensor], index: int) -> Tensor:
        if index == 0:
            return slopes[0]
        ratio = (sigmas[index + 1] - sigmas[index]) / (sigmas[index] - sigmas[index - 1])
        return (2 + ratio) / 2 * slopes[0] - ratio / 2 * slopes[1]

    assert_walk("ipndm_v", process, walk(uneven, sigmas), sigmas, order=2)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@every_process
def test_ipndm_v_is_ipndm_on_even_steps_and_lms_above_sigma_zero(process: Process, order: int):
    even = [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    assert_walk("ipndm_v", process, walk(lambda slopes, _: even_rule(slopes, order), even), even, order=order)
    grid, denoise = even_in_lambda(process, 9), GaussianDenoiser(process)
    x = process.initial(normal(8, dtype=torch.float64), grid[0])
    steps = [list(sample(denoise, x, grid, no_noise, order=order)) for sample in (ipndm_v, lms)]
    assert all(torch.equal(a.x, b.x) for a, b in zip(*steps, strict=True))


@pytest.mark.parametrize("gamma", [1.0, 1.5, 2.0])
@every_process
def test_gradient_estimation(process: Process, gamma: float):
    """Permenter and Yuan 2024, algorithm 2."""
    sigmas = [*SIGMAS, 0.0]

    def ahead(slopes: list[Tensor], index: int) -> Tensor:
        return slopes[0] if index == 0 else gamma * slopes[0] + (1 - gamma) * slopes[1]

    assert_walk("gradient_estimation", process, walk(ahead, sigmas), sigmas, gamma=gamma)


@pytest.mark.parametrize("end", [[], [0.0]], ids=["above zero", "to zero"])
@every_process
def test_heunpp2(process: Process, end: list[float]):
    sigmas, x, wanted = [*SIGMAS, *end], start(), []
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        first, left = slope(x, sigma), len(sigmas) - 2 - i  # whole steps after this one
        if left == 0:
            x = x + (following - sigma) * first
        elif left == 1:
            second = slope(x + (following - sigma) * first, following)
            weight = following / (2 * sigmas[0])
            x = x + (following - sigma) * ((1 - weight) * first + weight * second)
        else:
            trial = x + (following - sigma) * first
            second = slope(trial, following)
            third = slope(trial + (sigmas[i + 2] - following) * second, sigmas[i + 2])
            w2, w3 = following / (3 * sigmas[0]), sigmas[i + 2] / (3 * sigmas[0])
            x = x + (following - sigma) * ((1 - w2 - w3) * first + w2 * second + w3 * third)
        wanted.append(x)
    assert_walk("heunpp2", process, wanted, sigmas)


@every_process
def test_res_multistep_is_the_refined_exponential_solver(process: Process):
    """Zhang et al. 2023, arXiv:2308.02157, of order 2 in lambda, with phi_1 and phi_2; `res_multistep` in ComfyUI."""
    x, before, wanted = start(), None, []
    for i, (sigma, following) in enumerate(pairwise(SIGMAS)):
        h, x0 = math.log(sigma / following), x0_of(x, sigma)
        phi_1 = -math.expm1(-h) / h
        phi_2 = (phi_1 - 1) / -h
        c_2 = -math.log(SIGMAS[i - 1] / sigma) / h if i else math.inf
        x = math.exp(-h) * x + h * ((phi_1 - phi_2 / c_2) * x0 + phi_2 / c_2 * (x0 if before is None else before))
        before = x0
        wanted.append(x)
    names = resolve("res_multistep")
    assert names.sampler == "dpmpp_2m_sde"
    assert_walk(names.sampler, process, wanted, SIGMAS, **names.sampler_options)
    assert make_sampler(names.sampler, names.sampler_options) is not None


def phi(r: float, eta: float) -> float:
    """Cui et al. 2023, the fifth of their choices at eta = 1."""
    return r * (math.exp(r**0.3) + 10) ** eta


@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@every_process
def test_er_sde(process: Process, eta: float, stages: int):
    """Algorithms 1 to 3 with the integrals as sums over 20,000 points; the paper takes 200."""
    sigmas, x, seen, wanted = [*SIGMAS, 0.0], start(), [], []
    noise = normal(len(sigmas), 2, 3, seed=3, dtype=torch.float64)
    for i, (r, r_then) in enumerate(pairwise(sigmas)):
        x0 = x0_of(x, r)
        if r_then == 0:
            wanted.append(x0)
            break
        ratio = phi(r_then, eta) / phi(r, eta)
        seen.append(x0)
        following = ratio * x + (1 - ratio) * x0
        points = r_then + (torch.arange(20_000, dtype=torch.float64) + 0.5) * ((r - r_then) / 20_000)
        shares = (r - r_then) / 20_000 / torch.tensor([phi(point, eta) for point in points.tolist()])
        if i > 0 and stages > 1:
            first = (seen[-1] - seen[-2]) / (r - sigmas[i - 1])
            following = following + (r_then - r + shares.sum() * phi(r_then, eta)) * first
        if i > 1 and stages > 2:
            earlier = (seen[-2] - seen[-3]) / (sigmas[i - 1] - sigmas[i - 2])
            second = (first - earlier) / ((r - sigmas[i - 2]) / 2)
            area = (shares * (points - r)).sum()
            following = following + ((r_then - r) ** 2 / 2 + area * phi(r_then, eta)) * second
        x = following + math.sqrt(max(r_then**2 - (r * ratio) ** 2, 0)) * noise[i]
        wanted.append(x)
    draws = iter(noise)

    class Given:
        def between(self, begin: float, end: float) -> Tensor:
            return next(draws)

    assert_walk("er_sde", process, wanted, sigmas, noise=Given(), eta=eta, max_stage=stages)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
def test_what_becomes_euler(process: Process):
    denoise, grid = Mixture(process, centre=1.0), karras(process, 9)
    x = process.initial(normal(4, dtype=torch.float64), grid[0])
    wanted = last(euler(denoise, x, grid, no_noise))
    for sample, options in (
        (ipndm, {"order": 1}),
        (ipndm_v, {"order": 1}),
        (gradient_estimation, {"gamma": 1.0}),
        (er_sde, {"eta": 0.0, "max_stage": 1}),
    ):
        torch.testing.assert_close(last(sample(denoise, x, grid, Silence(x), **options)), wanted, rtol=1e-9, atol=1e-9)
    short = torch.stack([grid[0], grid[-1]])
    torch.testing.assert_close(last(heunpp2(denoise, x, short, no_noise)), last(euler(denoise, x, short, no_noise)))


@pytest.mark.parametrize("sample", [ipndm, ipndm_v])
def test_order_out_of_range_is_refused(sample):
    process = PROCESSES["vp"]
    with pytest.raises(ValueError, match="order=5 must be a whole number from 1 to 4"):
        next(sample(GaussianDenoiser(process), normal(1), karras(process, 4), no_noise, order=5))
