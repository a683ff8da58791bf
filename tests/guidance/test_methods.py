"""CFG++, APG, Perp-Neg, autoguidance, thresholding: each is its paper's formula, and nothing at its neutral setting."""

import math

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from listener import EMPTY, NEGATIVE, PROCESSES, PROMPT, Listener, identical, parts, same, start
from torch import Tensor

from ldm.denoiser import NetworkDenoiser, Prediction
from ldm.guidance import (
    CFG_PLUS_PLUS_SAMPLERS,
    AdaptiveProjectedGuidance,
    Autoguidance,
    CFGPlusPlus,
    ClassifierFreeGuidance,
    DynamicThresholding,
    PerpNeg,
    StaticThresholding,
)
from ldm.process import DiscreteVP, Flow
from ldm.samplers import SAMPLERS, ddim
from ldm.schedules import make_grid

TIMES = (999.0, 700.0, 400.0, 100.0)


def no_noise() -> Tensor:
    raise AssertionError("a deterministic walk draws no noise")


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each sample."""
    return (a.double() * b.double()).flatten(1).sum(1)


# --- CFG++


@pytest.mark.parametrize("scale", [0.0, 0.6, 1.0])
def test_cfg_plus_plus_with_ddim_is_algorithm_2_of_the_paper(scale: float):
    network, denoise, x = parts("vp", "epsilon")
    process = denoise.process
    grid = make_grid("trailing", process, 6)
    guided = CFGPlusPlus(ClassifierFreeGuidance(denoise, NEGATIVE, scale), NEGATIVE)
    *_, end = ddim(guided, x, grid, no_noise)
    alphas_cumprod = [process.alpha(t).item() ** 2 for t in grid]
    z = x
    for t, now, then in zip(grid, alphas_cumprod, alphas_cumprod[1:]):  # noqa: B905 - the last has no next
        time = torch.full((2,), t.item())
        empty, prompt = network(z, time, NEGATIVE), network(z, time, PROMPT)
        noise = empty + scale * (prompt - empty)
        picture = (z - math.sqrt(1 - now) * noise) / math.sqrt(now)
        z = math.sqrt(then) * picture + math.sqrt(1 - then) * empty
    torch.testing.assert_close(end.x, z, rtol=1e-5, atol=1e-5)


def test_cfg_plus_plus_costs_what_cfg_costs_and_asks_both_even_at_scale_one():
    for scale in (0.6, 1.0):
        network, denoise, x = parts("vp")
        CFGPlusPlus(ClassifierFreeGuidance(denoise, NEGATIVE, scale), NEGATIVE)(x, 500.0)
        assert network.batches == [4]


@pytest.mark.parametrize("name", CFG_PLUS_PLUS_SAMPLERS)
def test_the_samplers_of_cfg_plus_plus_step_in_x0_and_eps_alone(name: str):
    class Fixed:
        process = DiscreteVP()

        def __call__(self, x: Tensor, t: float) -> Prediction:
            return Prediction(start() * t / 1000, start().flip(-1))

    grid = make_grid("trailing", Fixed.process, 5)
    first, second = ([step.x for step in SAMPLERS[name](Fixed(), x, grid, start)] for x in (start(), 7 * start()))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


# --- APG


@pytest.mark.parametrize("name", PROCESSES)
def test_apg_without_projection_limit_and_momentum_is_cfg(name: str):
    _, denoise, x = parts(name)
    process = PROCESSES[name]
    apg = AdaptiveProjectedGuidance(denoise, NEGATIVE, 5.0, eta=1.0, rescale=math.inf, momentum=0.0)
    cfg = ClassifierFreeGuidance(denoise, NEGATIVE, 5.0)
    for index in TIMES:
        t = process.time_of_index(index).item()
        same(apg(x, t), cfg(x, t), 1e-4)


@pytest.mark.parametrize(
    ("eta", "limit", "beta"), [(0.0, 15.0, -0.5), (0.3, 2.0, 0.0), (1.0, 0.0, -0.75), (0.0, 2.0, 0.5)]
)
def test_apg_is_diffusers_over_a_walk(eta: float, limit: float, beta: float):
    _, denoise, _ = parts("vp")
    apg = AdaptiveProjectedGuidance(denoise, NEGATIVE, 8.0, eta, limit, beta)
    buffer = MomentumBuffer(beta) if beta else None
    for step, t in enumerate(TIMES):
        x = start() * (1 - step / 5)
        prompt, without = denoise(x, t).x0, denoise.predict(x, t, [NEGATIVE])[0].x0
        wanted = normalized_guidance(prompt, without, 7.0, buffer, eta, limit, use_original_formulation=True)
        got = apg(x, t)
        torch.testing.assert_close(got.x0, wanted, rtol=1e-4, atol=1e-4)
        alpha, sigma = (level.item() for level in denoise.process.levels(t))
        torch.testing.assert_close(alpha * got.x0 + sigma * got.eps, x, rtol=1e-4, atol=1e-4)


def test_apg_with_eta_zero_moves_at_right_angles_to_the_conditional():
    _, denoise, x = parts("vp")
    plain = denoise(x, 500.0).x0
    moved = AdaptiveProjectedGuidance(denoise, NEGATIVE, 8.0, 0.0, 0.0, 0.0)(x, 500.0).x0 - plain
    assert moved.abs().max() > 0.1
    torch.testing.assert_close(dot(moved, plain) / dot(plain, plain), torch.zeros(2).double(), rtol=0, atol=1e-6)


def test_apg_limits_the_norm_sample_by_sample():
    _, denoise, x = parts("vp")
    moved = AdaptiveProjectedGuidance(denoise, NEGATIVE, 3.0, 1.0, 0.5, 0.0)(x, 500.0).x0 - denoise(x, 500.0).x0
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), torch.full((2,), 2 * 0.5))


def test_momentum_is_of_one_walk():
    _, denoise, x = parts("vp")
    grid = make_grid("karras", denoise.process, 5)

    def walk(apg: AdaptiveProjectedGuidance, sampler: str = "heun", part: slice = slice(None)) -> Tensor:
        *_, end = SAMPLERS[sampler](apg, x, grid[part], no_noise)
        return end.x

    def fresh() -> AdaptiveProjectedGuidance:
        return AdaptiveProjectedGuidance(denoise, NEGATIVE, 5.0)

    once = fresh()
    whole, again, short = walk(once), walk(once), walk(once, part=slice(2, None))
    assert torch.equal(whole, again)  # a walk begins anew where time goes back
    assert torch.equal(short, walk(fresh(), part=slice(2, None)))
    calm = AdaptiveProjectedGuidance(denoise, NEGATIVE, 5.0, momentum=0.0)
    assert not torch.allclose(whole, walk(calm), atol=1e-3)


@pytest.mark.parametrize("guess", [600.0, 550.0])
def test_a_guess_is_replaced_by_what_comes_of_it(guess: float):
    _, denoise, x = parts("vp")
    apg, other = (AdaptiveProjectedGuidance(denoise, NEGATIVE, 5.0) for _ in range(2))
    apg(x, 900.0), other(x, 900.0)
    other(0.5 * x, guess)  # Heun calls on its guess first, with churn of a later time than that of the next step
    assert identical(apg(x, 600.0), other(x, 600.0))
    assert identical(apg(x, 300.0), other(x, 300.0))


# --- Perp-Neg


def test_perp_neg_subtracts_only_what_is_orthogonal_to_the_prompt():
    _, denoise, x = parts("vp")
    empty, negative, prompt = denoise.predict(x, 500.0, [EMPTY, NEGATIVE, None])
    got = PerpNeg(denoise, EMPTY, [NEGATIVE], 5.0, 1.5)(x, 500.0)
    taken = ClassifierFreeGuidance(denoise, EMPTY, 5.0)(x, 500.0).x0 - got.x0
    assert taken.abs().max() > 0.1
    positive = prompt.x0 - empty.x0
    torch.testing.assert_close(
        dot(taken, positive) / dot(positive, positive), torch.zeros(2).double(), rtol=0, atol=1e-5
    )
    for i in range(2):  # the formula for one picture, in eps
        main, other = prompt.eps[i] - empty.eps[i], negative.eps[i] - empty.eps[i]
        perpendicular = other - (other * main).sum() / main.norm() ** 2 * main
        wanted = empty.eps[i] + 5 * (main - 1.5 * perpendicular)
        torch.testing.assert_close(got.eps[i], wanted, rtol=1e-4, atol=1e-4)


def test_perp_neg_sums_its_negatives():
    _, denoise, x = parts("vp")
    plain = ClassifierFreeGuidance(denoise, EMPTY, 4.0)(x, 500.0).x0
    one, other, both = (
        PerpNeg(denoise, EMPTY, negatives, 4.0)(x, 500.0).x0 - plain
        for negatives in ([NEGATIVE], [PROMPT], [NEGATIVE, PROMPT])
    )
    torch.testing.assert_close(other, torch.zeros_like(other), rtol=0, atol=1e-5)  # the prompt itself is all parallel
    torch.testing.assert_close(both, one + other, rtol=1e-5, atol=1e-5)


def test_perp_neg_without_weight_is_cfg_from_the_empty_prompt():
    network, denoise, x = parts("vp")
    got, wanted = PerpNeg(denoise, EMPTY, [NEGATIVE], 5.0, 0.0), ClassifierFreeGuidance(denoise, EMPTY, 5.0)
    assert identical(got(x, 500.0), wanted(x, 500.0))
    PerpNeg(denoise, EMPTY, [NEGATIVE], 5.0)(x, 500.0)
    assert identical(PerpNeg(denoise, EMPTY, [NEGATIVE], 1.0, 0.0)(x, 500.0), denoise(x, 500.0))
    assert network.batches == [4, 4, 6, 2, 2]


# --- autoguidance


def test_autoguidance_by_the_model_itself_is_a_no_op():
    network, denoise, x = parts("vp")
    twin = NetworkDenoiser(network, denoise.process, denoise.prediction_type, PROMPT)
    for weak in (denoise, twin):
        assert identical(Autoguidance(denoise, weak, 3.0)(x, 500.0), denoise(x, 500.0))


def test_autoguidance_is_its_formula_with_one_call_to_each_model():
    network, denoise, x = parts("vp")
    bad = Listener(seed=5).requires_grad_(False)
    weak = NetworkDenoiser(bad, denoise.process, "sample", PROMPT)
    good, poor = denoise(x, 500.0), weak(x, 500.0)
    network.batches.clear(), bad.batches.clear()
    got = Autoguidance(denoise, weak, 2.5)(x, 500.0)
    assert (network.batches, bad.batches) == ([2], [2])
    torch.testing.assert_close(got.x0, poor.x0 + 2.5 * (good.x0 - poor.x0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.eps, poor.eps + 2.5 * (good.eps - poor.eps), rtol=1e-5, atol=1e-5)
    bad.batches.clear()
    assert identical(Autoguidance(denoise, weak, 1.0)(x, 500.0), good) and not bad.batches


def test_autoguidance_needs_one_process():
    _, denoise, _ = parts("vp")
    with pytest.raises(ValueError, match="models of one process"):
        Autoguidance(denoise, NetworkDenoiser(Listener(), Flow(), "flow", PROMPT), 2.0)


# --- thresholding


@pytest.mark.parametrize(("ratio", "maximum"), [(0.995, 1.0), (0.9, 1.5), (0.8, 1e9)])
def test_dynamic_thresholding_is_diffusers(ratio: float, maximum: float):
    _, denoise, x = parts("vp", "epsilon")
    cfg = ClassifierFreeGuidance(denoise, NEGATIVE, 6.0)
    scheduler = DDIMScheduler(thresholding=True, dynamic_thresholding_ratio=ratio, sample_max_value=maximum)
    inner = cfg(x, 700.0)
    got = DynamicThresholding(cfg, ratio, maximum)(x, 700.0)
    assert inner.x0.abs().max() > 1.5
    torch.testing.assert_close(got.x0, scheduler._threshold_sample(inner.x0), rtol=0, atol=0)
    assert torch.equal(got.eps, inner.eps)


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_walk_with_thresholding_is_diffusers(dynamic: bool):
    network, denoise, x = parts("vp", "epsilon")
    options = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 2.0}
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
        clip_sample=not dynamic,
        clip_sample_range=0.8,
        **(options if dynamic else {}),
    )
    scheduler.set_timesteps(8)
    z = x
    for t in scheduler.timesteps:
        z = scheduler.step(network(z, t.float().expand(2), PROMPT), t, z).prev_sample
    limited = DynamicThresholding(denoise, 0.9, 2.0) if dynamic else StaticThresholding(denoise, 0.8)
    *_, end = ddim(limited, x, make_grid("trailing", denoise.process, 8), no_noise)
    torch.testing.assert_close(end.x, z, rtol=1e-4, atol=1e-4)


def test_what_is_within_the_range_is_left_alone():
    _, denoise, x = parts("vp", "sample")  # tanh: always within [-1, 1]
    for limited in (DynamicThresholding(denoise), StaticThresholding(denoise)):
        assert identical(limited(x, 500.0), denoise(x, 500.0))
