"""Posterior sampling on Gaussian data, where the posterior is known; and what other methods make of it."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from gaussian import Correlated, Draws, normal
from torch import Tensor

from ldm.guidance.posterior import (
    POSTERIOR_METHODS,
    Condition,
    Measurement,
    Posterior,
    PosteriorMethod,
    clipped_mean,
    posterior_grid,
)
from ldm.guidance.posterior_gradients import dps, red_diff
from ldm.operators.kinds import Blur, Identity, Mask
from ldm.operators.operator import Operator
from ldm.process import EDM, DiscreteVP, Flow, Process
from ldm.samplers import SAMPLERS, Step, levels_of
from ldm.schedules import make_grid

CELLS, SAMPLES = 16, 4000
ZERO_SNR = DiscreteVP(zero_terminal_snr=True)
DAPS = POSTERIOR_METHODS["daps"]


class Means(Operator):
    """The means of four neighbours on a line."""

    factor = 4

    @property
    def gram(self) -> float:
        return 0.25

    def __call__(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, 4)).mean(-1)

    def adjoint(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(4, -1) / 4


KNOWN = torch.zeros(1, CELLS, dtype=torch.bool)
KNOWN[0, [0, 1, 2, 3, 8, 9, 10, 15]] = True
TASKS: dict[str, tuple[Operator, float]] = {
    "inpaint": (Mask(KNOWN), 0.0),
    "area-down": (Means(), 0.05),
    "blur": (Blur(1.0), 0.1),
    "denoise": (Identity(), 0.5),
}


class Problem:
    """A measurement of a picture of correlated data, and the posterior in closed form.

    Attributes:
        mean, variance: of the posterior, (16,).
    """

    def __init__(self, operator: Operator, sd: float, process: Process = ZERO_SNR) -> None:
        self.process, self.denoise = process, Correlated(process, CELLS)
        self.generator = torch.Generator().manual_seed(0)
        covariance = self.denoise.covariance
        truth = torch.linalg.cholesky(covariance) @ torch.randn(CELLS, generator=self.generator).double()
        seen = operator(truth.view(1, 1, 1, CELLS))
        y = seen + sd * torch.randn(seen.shape, generator=self.generator).double()
        self.measurement = Measurement(operator, y, sd)
        self.matrix = operator(torch.eye(CELLS).double().view(CELLS, 1, 1, CELLS)).flatten(1).T
        gain = self.gain(covariance)
        self.mean = gain @ y.flatten()
        self.variance = (covariance - gain @ self.matrix @ covariance).diag()

    def gain(self, covariance: Tensor) -> Tensor:
        """C At (A C At + s2)^-1."""
        noise = self.measurement.sd**2 * torch.eye(len(self.matrix)).double()
        total = self.matrix @ covariance @ self.matrix.T + noise
        return covariance @ self.matrix.T @ torch.linalg.pinv(total, rtol=1e-10, hermitian=True)

    def draws(self, like: Tensor) -> Draws:
        shape = (SAMPLES, *like.shape[1:])
        return Draws(lambda: torch.randn(shape, generator=self.generator).double())

    def exact(self) -> Condition:
        """A sample under the true covariance of the prediction, in place of a number times the identity."""
        picture, measured = self.draws(torch.empty(1, 1, 1, CELLS)), self.draws(self.measurement.y)

        def condition(x0: Tensor, t: float) -> Tensor:
            covariance = self.denoise.uncertainty(t)
            root = torch.linalg.cholesky(covariance + 1e-12 * torch.eye(CELLS).double())
            guess = x0 + picture() @ root.T
            seen = self.measurement.y + self.measurement.sd * measured()
            return guess + (seen - self.measurement.operator(guess)) @ self.gain(covariance).T

        return condition

    def scalar(self, method: PosteriorMethod) -> Condition | None:
        """The product's: the mean squared error as the variance."""

        def variance(t: float) -> float:
            alpha, sigma = (level.item() for level in self.process.levels(t))
            return method.r2(self.denoise.uncertainty(t).diag().mean().item(), alpha, sigma)

        picture, measured = self.draws(torch.empty(1, 1, 1, CELLS)), self.draws(self.measurement.y)
        return self.measurement.condition(method, variance, variance, picture, measured)

    def samples(self, method: PosteriorMethod, grid: Tensor, condition: Condition | None = None) -> Tensor:
        """(4000, 16)."""
        noise = self.draws(torch.empty(1, 1, 1, CELLS))
        posterior = Posterior(self.denoise, condition or self.scalar(method), method, noise)
        x = self.process.initial(noise(), grid[0])
        *_, last = SAMPLERS["ddim"](posterior, x, grid, noise, eta=method.eta)
        return last.x.flatten(1)

    def distance(self, samples: Tensor) -> tuple[float, float]:
        """Mean bias in deviations of the posterior, and mean ratio of variances, where anything is uncertain."""
        open_ = self.variance > 1e-6
        bias = (samples.mean(0) - self.mean)[open_].abs() / self.variance[open_].sqrt()
        return bias.mean().item(), (samples.var(0)[open_] / self.variance[open_]).mean().item()


@pytest.mark.parametrize("process", [ZERO_SNR, EDM(), Flow()], ids=["vp", "edm", "flow"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50])
def test_the_grid_descends_from_noise_to_the_picture(process: Process, steps: int) -> None:
    grid = posterior_grid(process, steps)
    assert len(grid) == steps + 1 and grid[0] == process.start and grid[-1] == process.terminal
    assert (grid.diff() < 0).all()


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(("steps", "bias", "most"), [(50, 0.12, 1.15), (10, 0.2, 1.3)])
def test_samples_have_the_distribution_of_the_posterior(name: str, steps: int, bias: float, most: float) -> None:
    problem = Problem(*TASKS[name])
    found = problem.distance(problem.samples(DAPS, posterior_grid(ZERO_SNR, steps)))
    assert found[0] <= bias and 0.9 <= found[1] <= most, found


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("steps", [50, 10])
def test_with_the_exact_covariance_it_is_exact_with_any_number_of_steps(name: str, steps: int) -> None:
    problem = Problem(*TASKS[name])
    found = problem.distance(problem.samples(DAPS, posterior_grid(ZERO_SNR, steps), problem.exact()))
    assert found[0] <= 0.03 and 0.95 <= found[1] <= 1.05, found


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("method", POSTERIOR_METHODS)
def test_the_walk_is_the_same_for_every_process(name: str, method: str) -> None:
    found = []
    for process in (ZERO_SNR, EDM(), Flow()):
        problem = Problem(*TASKS[name], process)
        lams = torch.linspace(-4, 4, 12, dtype=torch.float64)
        grid = torch.cat([process.time_of_lambda(lams), torch.tensor([process.terminal])])
        found.append(problem.samples(POSTERIOR_METHODS[method], grid))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-5 * found[0].abs().max().item(), rtol=0)


@pytest.mark.parametrize("method", POSTERIOR_METHODS)
def test_without_data_it_is_plain_sampling_to_the_bit(method: str) -> None:
    own, grid = POSTERIOR_METHODS[method], posterior_grid(ZERO_SNR, 10)
    walks = []
    for condition in (None, Measurement(Identity(), torch.ones(1, 1, 1, CELLS), math.inf).condition):
        problem = Problem(Identity(), 0.5)
        noise = problem.draws(torch.empty(1, 1, 1, CELLS))
        given = condition and condition(own, lambda t: 1.0, lambda t: 1.0, noise, noise)
        wrapped = Posterior(problem.denoise, given, own, noise)
        x = noise()
        walks.append([list(SAMPLERS["ddim"](each, x, grid, noise))[-1].x for each in (wrapped, problem.denoise)])
    for wrapped_x, plain in walks:
        assert torch.equal(wrapped_x, plain)


def by_gradients(problem: Problem, sampler: Callable[..., Iterator[Step]], grid: Tensor) -> Tensor:
    """(4000, 16) of DPS or RED-diff."""
    noise = problem.draws(torch.empty(1, 1, 1, CELLS))
    *_, last = sampler(problem.denoise, noise(), grid, noise, residual=problem.measurement.residual)
    return last.x.flatten(1)


@pytest.mark.parametrize("name", ["inpaint", "area-down", "blur"])
def test_dps_is_near_the_posterior_where_there_is_little_noise(name: str) -> None:
    """It is too narrow, and its scale is a guess: no law, but what is documented."""
    bias, spread = (problem := Problem(*TASKS[name])).distance(
        by_gradients(problem, dps, make_grid("trailing", ZERO_SNR, 50))
    )
    assert bias <= 0.2 and 0.5 <= spread <= 1, (bias, spread)


def test_dps_is_its_formula() -> None:
    """x' = DDPM(x) - J^T r / |r|, with the Jacobian of the Gaussian denoiser in closed form."""
    problem = Problem(*TASKS["blur"])
    grid, x = make_grid("trailing", ZERO_SNR, 3), normal(4, 1, 1, CELLS, dtype=torch.float64)
    draws = [normal(4, 1, 1, CELLS, dtype=torch.float64, seed=seed) for seed in (1, 2, 3)]
    expected, a = x.flatten(1), problem.matrix
    for (now, then), z in zip(pairwise(levels_of(ZERO_SNR, grid)), draws, strict=True):
        total = now.alpha**2 * problem.denoise.covariance + now.sigma**2 * torch.eye(CELLS).double()
        jacobian = now.alpha * torch.linalg.solve(total, problem.denoise.covariance)
        x0, eps = expected @ jacobian, now.sigma * torch.linalg.solve(total, expected.T).T
        apart = problem.measurement.y.flatten() - x0 @ a.T
        down = -(apart @ a @ jacobian) / apart.norm(dim=1, keepdim=True)
        renewed = 1 - (now.alpha / now.sigma * then.sigma / then.alpha) ** 2
        eps = math.sqrt(1 - renewed) * eps + math.sqrt(renewed) * z.flatten(1)
        expected = then.alpha * x0 + then.sigma * eps - down
    noise = Draws(iter(draws).__next__)
    *_, last = dps(problem.denoise, x, grid, noise, residual=problem.measurement.residual)
    torch.testing.assert_close(last.x.flatten(1), expected, atol=1e-9, rtol=1e-9)


def test_red_diff_comes_to_rest_where_measurement_and_denoiser_agree() -> None:
    """At one level, over and over: A^T (A mu - y) + weight (sigma / alpha) (E eps - noise) = 0, a linear equation."""
    problem = Problem(*TASKS["blur"])
    t = ZERO_SNR.time_of_lambda(torch.tensor(0.0, dtype=torch.float64)).item()
    grid, a = torch.full((400,), t, dtype=torch.float64), problem.matrix
    zero = Draws(lambda: torch.zeros(2, 1, 1, CELLS, dtype=torch.float64))
    x = torch.zeros(2, 1, 1, CELLS, dtype=torch.float64)
    *_, last = red_diff(problem.denoise, x, grid, zero, residual=problem.measurement.residual)
    alpha, sigma = (level.item() for level in ZERO_SNR.levels(t))
    total = alpha**2 * problem.denoise.covariance + sigma**2 * torch.eye(CELLS).double()
    normal_matrix = a.T @ a + 0.25 * sigma**2 * torch.linalg.inv(total)
    expected = torch.linalg.solve(normal_matrix, a.T @ problem.measurement.y.flatten())
    torch.testing.assert_close(last.x[0].flatten(), expected, atol=1e-3, rtol=0)


def test_what_other_methods_make_of_noise() -> None:
    """The noise of the measurement is copied (DDNM, DPS), or the spread is far too small (DiffPIR, RED-diff)."""
    grid = make_grid("trailing", ZERO_SNR, 50)
    noisy = Problem(*TASKS["denoise"])
    bias, spread = noisy.distance(noisy.samples(POSTERIOR_METHODS["ddnm"], grid))
    assert bias > 0.5 and spread < 0.05, (bias, spread)
    bias, spread = noisy.distance(by_gradients(noisy, dps, grid))
    assert bias > 0.5 and spread < 0.5, (bias, spread)
    bias, spread = noisy.distance(noisy.samples(POSTERIOR_METHODS["diffpir"], grid))
    assert bias < 0.3 and spread < 0.6, (bias, spread)
    assert noisy.distance(by_gradients(noisy, red_diff, grid))[1] < 0.3
    exact = Problem(*TASKS["inpaint"])
    bias, spread = exact.distance(exact.samples(POSTERIOR_METHODS["ddnm"], grid))
    assert bias <= 0.12 and 0.9 <= spread <= 1.15, (bias, spread)


def formula(problem: Problem, method: str, x: Tensor, grid: Tensor, noise: Draws) -> Iterator[Tensor]:
    """DDNM (Wang et al. 2023, algorithm 1) and DiffPIR (Zhu et al. 2023, algorithm 1), in alpha and sigma."""
    y, sd, a = problem.measurement.y.flatten(1), problem.measurement.sd, problem.matrix
    for now, then in pairwise(levels_of(problem.process, grid)):
        predicted = problem.denoise(x, now.t)
        x0 = predicted.x0.flatten(1)
        if method == "ddnm":
            x0 = (x0 + (y - x0 @ a.T) @ torch.linalg.pinv(a).T).view_as(x)
            eta = POSTERIOR_METHODS["ddnm"].eta
            fresh = eta * then.sigma * math.sqrt(1 - (then.sigma / now.sigma * now.alpha / then.alpha) ** 2)
            x = then.alpha * x0 + math.sqrt(then.sigma**2 - fresh**2) * predicted.eps
            x = x + fresh * noise() if fresh > 0 else x
        else:
            rho = sd**2 / (now.sigma / now.alpha) ** 2 if now.alpha > 0 else 0.0
            normal_matrix = a.T @ a + rho * torch.eye(CELLS).double()
            if now.alpha > 0:
                x0 = torch.linalg.solve(normal_matrix, a.T @ y.T + rho * x0.T).T
            else:
                x0 = x0 + (y - x0 @ a.T) @ torch.linalg.pinv(a).T
            x = then.alpha * x0.view_as(x) + then.sigma * noise()
        yield x


@pytest.mark.parametrize(("name", "method"), [("inpaint", "ddnm"), ("area-down", "ddnm"), ("blur", "diffpir")])
def test_other_methods_are_their_formulas(name: str, method: str) -> None:
    problem, own = Problem(*TASKS[name]), POSTERIOR_METHODS[method]
    grid = posterior_grid(ZERO_SNR, 8)
    x = normal(4, 1, 1, CELLS, dtype=torch.float64)

    def draws() -> Draws:
        generator = torch.Generator().manual_seed(5)
        return Draws(lambda: torch.randn(x.shape, generator=generator).double())

    *_, expected = formula(problem, method, x, grid, draws())
    noise = draws()
    wrapped = Posterior(problem.denoise, problem.scalar(own), own, noise)
    *_, last = SAMPLERS["ddim"](wrapped, x, grid, noise, eta=own.eta)
    torch.testing.assert_close(last.x, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("directions", "right"), [(4, True), (1, False)])
def test_latents_know_what_a_picture_of_more_numbers_measures(directions: int, right: bool) -> None:
    """64 pixels of 16 latents, seen in noise of deviation 1: of latents they say as much as 16 of 0.5."""
    problem = Problem(*TASKS["denoise"])
    columns = 2 * torch.linalg.qr(normal(64, CELLS, dtype=torch.float64))[0]

    def decode(z: Tensor) -> Tensor:
        return (z.flatten(1) @ columns.T).view(-1, 1, 1, 64)

    def encode(x: Tensor) -> Tensor:
        return (x.flatten(1) @ columns / 4).view(-1, 1, 1, CELLS)

    across = normal(1, 1, 1, 64, dtype=torch.float64)  # noise that no latent shows changes nothing
    seen = Measurement(Identity(), decode(problem.measurement.y) + across - decode(encode(across)), 1.0)

    def error(t: float) -> float:
        return problem.denoise.uncertainty(t).diag().mean().item()

    latent, pixels = problem.draws(torch.empty(1, 1, 1, CELLS)), problem.draws(seen.y)
    condition = seen.condition(DAPS, error, lambda t: directions * error(t), latent, pixels, decode, encode)
    bias, spread = problem.distance(problem.samples(DAPS, posterior_grid(ZERO_SNR, 50), condition))
    assert (bias <= 0.12 and 0.9 <= spread <= 1.15) is right, (bias, spread)


@pytest.mark.parametrize("name", ["inpaint", "area-down"])
def test_without_noise_the_measurement_is_met(name: str) -> None:
    problem = Problem(TASKS[name][0], 0.0)
    samples = problem.samples(DAPS, posterior_grid(ZERO_SNR, 10)).view(-1, 1, 1, CELLS)
    operator, y = problem.measurement.operator, problem.measurement.y
    torch.testing.assert_close(operator(samples), operator(operator.pseudo_inverse(y)).expand_as(operator(samples)))


def test_the_mean_of_clipped_noise() -> None:
    mu = torch.linspace(-1, 1, 9, dtype=torch.float64)
    noisy = (mu + 0.4 * normal(400_000, 1, dtype=torch.float64)).clamp(-1, 1)
    torch.testing.assert_close(clipped_mean(mu, 0.4, 1.0), noisy.mean(0), atol=3e-3, rtol=0)
    torch.testing.assert_close(clipped_mean(mu, 1e-6, 1.0), mu, atol=1e-6, rtol=0)


def test_a_measurement_that_was_clipped_has_no_bias_left_where_the_guess_is_right() -> None:
    truth = torch.ones(1, 1, 200, 200, dtype=torch.float64)
    y = (truth + 0.4 * normal(1, 1, 200, 200, dtype=torch.float64)).clamp(-1, 1)
    plain, clipped = (Measurement(Identity(), y, 0.4, limit).moved(truth, 1.0).mean().item() for limit in (math.inf, 1))
    assert abs(clipped - 1) < 5e-3 < 0.1 < 1 - plain
