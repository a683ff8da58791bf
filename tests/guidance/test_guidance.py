"""Classifier-free guidance: its formula, its cost, its interval, and diffusers' rescaling."""

import re

import pytest
import torch
from diffusers.guiders.guider_utils import rescale_noise_cfg
from listener import NEGATIVE, PROCESSES, PROMPT, Listener, identical, parts, same

from ldm.denoiser import NetworkDenoiser, target
from ldm.guidance import ClassifierFreeGuidance
from ldm.process import DiscreteVP, Process
from ldm.samplers import ddim
from ldm.schedules import trailing


@pytest.mark.parametrize("name", PROCESSES)
def test_cfg_at_scale_one_is_the_conditional_with_one_pass(name: str):
    network, denoise, x = parts(name)
    t = PROCESSES[name].time_of_index(700.0).item()
    wanted = denoise(x, t)
    network.batches.clear()
    got = ClassifierFreeGuidance(denoise, NEGATIVE, 1.0)(x, t)
    assert identical(got, wanted)
    assert network.batches == [2]
    assert got.conditional is not None and got.unconditional is None


@pytest.mark.parametrize("kind", ["v_prediction", "sample", "flow"])
@pytest.mark.parametrize("name", PROCESSES)
def test_cfg_is_its_formula_on_the_network_output_in_one_pass(name: str, kind: str):
    network, denoise, x = parts(name, kind)
    process = PROCESSES[name]
    t = process.time_of_index(700.0).item()
    with_prompt, without = denoise(x, t), denoise.predict(x, t, [NEGATIVE])[0]
    network.batches.clear()
    got = ClassifierFreeGuidance(denoise, NEGATIVE, 5.0)(x, t)
    assert network.batches == [4]
    levels = [level.item() for level in process.levels(t)]
    outputs = [target(each.x0, each.eps, *levels, kind) for each in (got, with_prompt, without)]
    torch.testing.assert_close(outputs[0], outputs[2] + 5 * (outputs[1] - outputs[2]), rtol=1e-4, atol=1e-4)
    assert got.conditional is not None and got.unconditional is not None
    same(got.conditional, with_prompt)
    same(got.unconditional, without)


def test_scale_zero_is_the_negative_prompt_alone():
    _, denoise, x = parts("vp")
    same(ClassifierFreeGuidance(denoise, NEGATIVE, 0.0)(x, 500.0), denoise.predict(x, 500.0, [NEGATIVE])[0])


def test_one_negative_prompt_serves_the_batch():
    _, denoise, x = parts("vp")
    one = NEGATIVE[0:1]
    same(
        ClassifierFreeGuidance(denoise, one, 3.0)(x, 500.0),
        ClassifierFreeGuidance(denoise, one.repeat(2), 3.0)(x, 500.0),
    )


@pytest.mark.parametrize("amount", [0.3, 0.7, 1.0])
@pytest.mark.parametrize(("name", "kind"), [("vp", "epsilon"), ("vp_zero_snr", "v_prediction"), ("flow", "flow")])
def test_rescale_is_diffusers_on_the_network_output(name: str, kind: str, amount: float):
    network, denoise, x = parts(name, kind)
    process = PROCESSES[name]
    t = process.start
    time = process.model_time(t).float().expand(2)
    with_prompt, without = network(x, time, PROMPT), network(x, time, NEGATIVE)
    wanted = rescale_noise_cfg(without + 6 * (with_prompt - without), with_prompt, amount)
    got = ClassifierFreeGuidance(denoise, NEGATIVE, 6.0, rescale=amount)(x, t)
    levels = [level.item() for level in process.levels(t)]
    torch.testing.assert_close(target(got.x0, got.eps, *levels, kind), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(levels[0] * got.x0 + levels[1] * got.eps, x, rtol=1e-5, atol=1e-5)


def test_full_rescale_gives_the_conditional_deviation():
    _, denoise, x = parts("vp_zero_snr", "sample")
    got = ClassifierFreeGuidance(denoise, NEGATIVE, 6.0, rescale=1.0)(x, 800.0)
    torch.testing.assert_close(got.x0.std(dim=(1, 2, 3)), denoise(x, 800.0).x0.std(dim=(1, 2, 3)))


@pytest.mark.parametrize("name", PROCESSES)
def test_outside_the_interval_there_is_no_guidance_and_one_pass(name: str):
    network, denoise, x = parts(name)
    process: Process = PROCESSES[name]
    guided, limited = (
        ClassifierFreeGuidance(denoise, NEGATIVE, 4.0, interval=interval) for interval in ((0.0, 1.0), (0.25, 0.75))
    )
    for index, inside in ((999.0, False), (760.0, False), (740.0, True), (260.0, True), (240.0, False), (0.0, False)):
        t = process.time_of_index(index).item()
        wanted = guided(x, t) if inside else denoise(x, t)
        network.batches.clear()
        same(limited(x, t), wanted)
        assert network.batches == [4 if inside else 2]


def test_whole_interval_guides_every_step():
    network, denoise, x = parts("vp_zero_snr")
    guided = ClassifierFreeGuidance(denoise, NEGATIVE, 4.0)
    list(ddim(guided, x, trailing(guided.process, 6), lambda: torch.randn_like(x)))
    assert network.batches == [4] * 6


@pytest.mark.parametrize("name", ["vp", "vp_zero_snr"])
@pytest.mark.parametrize(("preset", "first", "last"), [("sdxl", 0.28, 5.42), ("sd1", 0.28, 5.42), ("dit", 0.34, 1.02)])
def test_a_preset_guides_between_its_noise_levels(name: str, preset: str, first: float, last: float):
    network, denoise, x = parts(name)
    guided = ClassifierFreeGuidance(denoise, NEGATIVE, 4.0, interval=preset)
    for index in range(0, 1000, 37):
        t = guided.process.time_of_index(float(index)).item()
        alpha, sigma = (level.item() for level in guided.process.levels(t))
        network.batches.clear()
        guided(x, t)
        assert network.batches == [4 if alpha > 0 and first < sigma / alpha <= last else 2]


@pytest.mark.parametrize("name", PROCESSES)
def test_a_reused_negative_is_the_difference_in_eps_of_the_evaluation_that_ran_it(name: str):
    network, denoise, x = parts(name)
    process = PROCESSES[name]
    guided = ClassifierFreeGuidance(denoise, NEGATIVE, 4.0, reuse=3)
    times = [process.time_of_index(index).item() for index in (800.0, 700.0, 600.0, 500.0)]
    first, plain = guided(x, times[0]), denoise(x, times[1])
    added = first.conditional.eps - first.unconditional.eps
    got = guided(x, times[1])
    torch.testing.assert_close(got.eps, plain.eps + 3 * added, rtol=1e-4, atol=1e-4)
    alpha, sigma = (level.item() for level in process.levels(times[1]))
    torch.testing.assert_close(
        alpha * got.x0 + sigma * got.eps, alpha * plain.x0 + sigma * plain.eps, rtol=1e-4, atol=1e-3
    )
    guided(x, times[2])
    network.batches.clear()
    same(guided(x, times[3]), ClassifierFreeGuidance(denoise, NEGATIVE, 4.0)(x, times[3]))
    assert network.batches == [4, 4]


def test_the_negative_runs_at_every_kth_evaluation_and_whenever_nothing_fits():
    network, denoise, x = parts("vp_zero_snr")
    for reuse, batches in ((1, [4] * 6), (2, [4, 2] * 3), (4, [4, 2, 2, 2, 4, 2])):
        network.batches.clear()
        guided = ClassifierFreeGuidance(denoise, NEGATIVE, 4.0, reuse=reuse)
        list(ddim(guided, x, trailing(guided.process, 6), lambda: torch.randn_like(x)))
        assert network.batches == batches
    network.batches.clear()
    for t, given in ((500.0, x), (600.0, x), (500.0, x[..., 1:]), (400.0, x[..., 1:].clone().requires_grad_())):
        guided(given, t)
    assert network.batches == [4] * 4  # more noise, another size, gradients


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": 3.0, "reuse": 0}, ["guidance_reuse=0 is not possible"]),
        ({"scale": 3.0, "interval": "sdx"}, ["unknown guidance_interval 'sdx'", "did you mean 'sdxl'"]),
        ({"scale": float("nan")}, ["guidance_scale=nan"]),
        ({"scale": 3.0, "rescale": 1.5}, ["guidance_rescale=1.5"]),
        ({"scale": 3.0, "interval": (0.8, 0.2)}, ["interval=(0.8, 0.2)"]),
        ({"scale": 3.0, "negative": PROMPT.repeat(2)}, ["batch size 4", "the prompt 2"]),
    ],
)
def test_errors_name_the_argument(options: dict, words: list[str]):
    _, denoise, _ = parts("vp")
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        ClassifierFreeGuidance(denoise, **{"negative": NEGATIVE} | options)
    assert all(word in str(error.value) for word in words), error.value


def test_a_denoiser_without_conditioning_is_refused():
    denoise = NetworkDenoiser(Listener(), DiscreteVP(), "v_prediction")
    with pytest.raises(ValueError, match="needs a denoiser with a conditioning"):
        ClassifierFreeGuidance(denoise, NEGATIVE, 3.0)
