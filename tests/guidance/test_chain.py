"""Chains of guidance: what they cost, what settings make of them, and that they do not depend on the network's form."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import pytest
import torch
from listener import EMPTY, NEGATIVE, PROCESSES, Listener, identical, parts, same, start, translated
from torch import Tensor
from unet_twins import SD1

from conditioning.bundle import Conditioning
from ldm.denoiser import PREDICTION_TYPES, NetworkDenoiser
from ldm.guidance import (
    AdaptiveProjectedGuidance,
    Autoguidance,
    CFGPlusPlus,
    ClassifierFreeGuidance,
    DynamicThresholding,
    GuidanceSettings,
    PerpNeg,
    PerturbedAttentionGuidance,
    Rescale,
    SmoothedEnergyGuidance,
    StaticThresholding,
    Timeline,
    guide,
)
from ldm.networks.unet import UNet
from ldm.process import DiscreteVP, Flow
from ldm.samplers import ddim
from ldm.schedules import make_grid

SETTINGS = {
    "cfg": GuidanceSettings(guidance_scale=5.0),
    "cfg++": GuidanceSettings(guidance_scale=0.6, guidance_method="cfg++"),
    "apg": GuidanceSettings(guidance_scale=8.0, guidance_method="apg"),
    "perp_neg": GuidanceSettings(guidance_scale=5.0, guidance_method="perp_neg"),
    "interval": GuidanceSettings(guidance_scale=5.0, guidance_interval=(0.2, 0.7)),
    "autoguidance": GuidanceSettings(guidance_scale=2.0, autoguidance_scale=2.0),
    "thresholding": GuidanceSettings(guidance_scale=5.0, thresholding=True, dynamic_thresholding_ratio=0.9),
    "clip": GuidanceSettings(guidance_scale=5.0, clip_sample_range=1.0),
}


def walk(denoise, x: Tensor, steps: int = 6) -> Tensor:
    *_, end = ddim(denoise, x, make_grid("trailing", denoise.process, steps), lambda: x)
    return end.x


def unet_parts() -> tuple[list[int], NetworkDenoiser, Conditioning, Tensor]:
    """The batch sizes of a U-Net's calls, its denoiser, a negative, and an x (2, 4, 8, 8)."""
    torch.manual_seed(0)
    network = UNet(SD1).requires_grad_(False)
    batches: list[int] = []
    network.register_forward_pre_hook(lambda module, inputs: batches.append(len(inputs[0])))
    conditioning, negative = (Conditioning(tokens=torch.randn(batch, 5, 12)) for batch in (2, 1))
    x = torch.randn(2, 4, 8, 8)
    return batches, NetworkDenoiser(network, DiscreteVP(), "v_prediction", conditioning), negative, x


def test_defaults_are_no_guidance_and_one_pass():
    network, denoise, x = parts("vp")
    got = guide(denoise, None, GuidanceSettings())
    assert identical(got(x, 500.0), denoise(x, 500.0)) and network.batches == [2, 2]
    assert not GuidanceSettings().needs_negative and not GuidanceSettings().needs_empty


@pytest.mark.parametrize("name", PROCESSES)
def test_cfg_by_settings_is_cfg_to_the_bit(name: str):
    network, denoise, x = parts(name)
    t = PROCESSES[name].time_of_index(700.0).item()
    settings = GuidanceSettings(guidance_scale=5.0, guidance_rescale=0.7, guidance_interval=(0.1, 0.9))
    wanted = ClassifierFreeGuidance(denoise, NEGATIVE, 5.0, 0.7, (0.1, 0.9))
    assert identical(guide(denoise, NEGATIVE, settings)(x, t), wanted(x, t))
    assert network.batches == [4, 4]


@pytest.mark.parametrize("inner_scale", [1.0, 4.0])
def test_neutral_links_change_no_bit_and_ask_nothing(inner_scale: float):
    network, denoise, x = parts("vp", "sample")  # tanh, so that thresholds are neutral too
    inner = ClassifierFreeGuidance(denoise, NEGATIVE, inner_scale)
    links = [
        ClassifierFreeGuidance(inner, NEGATIVE, 1.0),
        AdaptiveProjectedGuidance(inner, NEGATIVE, 1.0),
        PerpNeg(inner, EMPTY, [NEGATIVE], 1.0, 0.0),
        PerturbedAttentionGuidance(inner, 0.0),
        SmoothedEnergyGuidance(inner, 0.0),
        Autoguidance(inner, denoise, 1.0),
        Rescale(inner, 0.0),
    ]
    if inner_scale == 1:
        links += [Rescale(inner, 0.7), DynamicThresholding(inner), StaticThresholding(inner)]
    wanted = inner(x, 500.0)
    network.batches.clear()
    assert all(identical(link(x, 500.0), wanted) for link in links)
    assert set(network.batches) == {2 if inner_scale == 1 else 4}


@pytest.mark.parametrize(
    ("settings", "batches"),
    [
        (GuidanceSettings(), [2]),
        (GuidanceSettings(guidance_scale=4.0), [4]),
        (GuidanceSettings(pag_scale=3.0), [4]),
        (GuidanceSettings(guidance_scale=4.0, pag_scale=3.0), [6]),
        (GuidanceSettings(guidance_scale=4.0, pag_scale=3.0, seg_scale=2.0, seg_blur_sigma=1.0), [8]),
        (GuidanceSettings(guidance_scale=4.0, pag_scale=3.0, guidance_interval=(0.6, 1.0)), [2]),
        (GuidanceSettings(guidance_scale=0.5, guidance_method="cfg++", pag_scale=3.0), [6]),
        (GuidanceSettings(guidance_scale=4.0, guidance_method="apg", seg_scale=3.0), [6]),
        (GuidanceSettings(guidance_scale=4.0, guidance_method="perp_neg", pag_scale=3.0), [8]),
        (GuidanceSettings(guidance_scale=4.0, autoguidance_scale=2.0), [4, 2]),
        (GuidanceSettings(guidance_scale=4.0, guidance_rescale=0.5, thresholding=True, clip_sample_range=1.0), [4]),
    ],
    ids=str,
)
def test_all_passes_are_one_call_to_each_model(settings: GuidanceSettings, batches: list[int]):
    requested, denoise, negative, x = unet_parts()
    weak = NetworkDenoiser(denoise.network, denoise.process, "v_prediction", denoise.conditioning)
    got = guide(denoise, negative, settings, empty=negative.repeat(2), weak=weak)(x, 500.0)
    assert requested == batches
    assert torch.isfinite(got.x0).all() and torch.isfinite(got.eps).all()


def test_pag_on_cfg_counts_both_scales_from_the_conditional():
    _, denoise, negative, x = unet_parts()
    plain, cfg = denoise(x, 500.0), ClassifierFreeGuidance(denoise, negative, 4.0)(x, 500.0)
    pag = PerturbedAttentionGuidance(denoise, 3.0)(x, 500.0)
    both = guide(denoise, negative, GuidanceSettings(guidance_scale=4.0, pag_scale=3.0))(x, 500.0)
    torch.testing.assert_close(both.x0, cfg.x0 + pag.x0 - plain.x0, rtol=1e-4, atol=1e-4)
    assert both.conditional is not None and both.unconditional is not None
    same(both.conditional, plain, 1e-4)


@pytest.mark.parametrize("method", SETTINGS)
def test_epsilon_v_x0_and_flow_give_the_same_guided_picture(method: str):
    process = DiscreteVP("linear", 0.0001, 0.005)  # a start with some picture in it, which epsilon can speak of
    network = Listener().requires_grad_(False)
    ends = []
    for kind in PREDICTION_TYPES:
        weak = translated(Listener(seed=5).requires_grad_(False), process, kind)
        guided = guide(translated(network, process, kind), NEGATIVE, SETTINGS[method], empty=EMPTY, weak=weak)
        ends.append(walk(guided, start()))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("name", PROCESSES)
def test_every_method_serves_every_process(method: str, name: str):
    _, denoise, x = parts(name)
    x = denoise.process.initial(x, denoise.process.start)
    end = walk(guide(denoise, NEGATIVE, SETTINGS[method], empty=EMPTY, weak=denoise), x)
    assert torch.isfinite(end).all() and not torch.allclose(end, walk(denoise, x), atol=1e-4)


@pytest.mark.parametrize("method", SETTINGS)
def test_threads_draw_what_one_after_the_other_draws(method: str):
    _, denoise, _ = parts("vp")
    starts = [torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(i)) for i in range(8)]

    def draw(x: Tensor) -> Tensor:  # a chain of its own for each run, over one denoiser
        return walk(guide(denoise, NEGATIVE, SETTINGS[method], empty=EMPTY, weak=denoise), x)

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(draw, starts))
    assert all(torch.equal(got, draw(x)) for got, x in zip(together, starts, strict=True))


@pytest.mark.parametrize("method", SETTINGS)
def test_gradients_flow_through_guidance(method: str):
    _, denoise, _ = parts("vp")
    x = start().requires_grad_()
    walk(guide(denoise, NEGATIVE, SETTINGS[method], empty=EMPTY, weak=denoise), x, 3).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all() and x.grad.abs().max() > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"guidance_scale": math.nan},
        {"guidance_method": "apg2"},
        {"guidance_scale": 7.5, "guidance_method": "cfg++"},
        {"guidance_rescale": -0.1},
        {"guidance_interval": (0.5, 0.2)},
        {"guidance_interval": "sd9"},
        {"guidance_reuse": 0},
        {"guidance_reuse": 2, "guidance_method": "apg"},
        {"apg_eta": math.inf},
        {"apg_rescale": -1.0},
        {"apg_momentum": -1.0},
        {"perp_neg_scale": math.inf},
        {"pag_scale": math.nan},
        {"seg_scale": math.nan},
        {"seg_blur_sigma": 0.0},
        {"autoguidance_scale": math.inf},
        {"dynamic_thresholding_ratio": 0.0},
        {"sample_max_value": 0.5},
        {"clip_sample_range": 0.0},
    ],
    ids=str,
)
def test_settings_name_the_field_that_is_wrong(wrong: dict):
    assert set(wrong) <= {field.name for field in fields(GuidanceSettings)}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GuidanceSettings(**wrong)


def test_what_a_method_needs_is_requested():
    _, denoise, _ = parts("vp")
    for name, words in (("cfg", "negative"), ("cfg++", "negative"), ("perp_neg", "negative")):
        assert SETTINGS[name].needs_negative
        with pytest.raises(ValueError, match=words):
            guide(denoise, None, SETTINGS[name], empty=EMPTY)
    assert SETTINGS["perp_neg"].needs_empty and not SETTINGS["apg"].needs_empty
    with pytest.raises(ValueError, match="empty prompt"):
        guide(denoise, NEGATIVE, SETTINGS["perp_neg"])
    with pytest.raises(ValueError, match=r"autoguidance_scale=2.0 needs a second"):
        guide(denoise, NEGATIVE, SETTINGS["autoguidance"])


def test_cfg_plus_plus_is_refused_for_samplers_that_lean_on_x():
    SETTINGS["cfg++"].check_sampler("ddim")
    SETTINGS["cfg"].check_sampler("dpmpp_2m")
    with pytest.raises(
        ValueError, match=r"guidance_method='cfg\+\+'.*sampler='dpmpp_2m'.*ddim or euler or euler_ancestral"
    ):
        SETTINGS["cfg++"].check_sampler("dpmpp_2m")


def test_one_negative_is_fitted_to_the_batch_and_run_once():
    network, denoise, x = parts("vp")
    guide(denoise, NEGATIVE[0:1], SETTINGS["cfg++"])(x, 500.0)
    CFGPlusPlus(ClassifierFreeGuidance(denoise, NEGATIVE, 0.6), NEGATIVE)(x, 500.0)
    assert network.batches == [4, 4]


def test_timeline_hands_each_time_to_its_segment():
    _, denoise, x = parts("vp")
    plain, guided = denoise, ClassifierFreeGuidance(denoise, NEGATIVE, 4.0)
    timeline = Timeline([(600.0, plain), (300.0, guided), (100.0, plain)])
    for t, wanted in ((999.0, plain), (600.0, plain), (599.9, guided), (300.0, guided), (299.0, plain), (0.0, plain)):
        assert identical(timeline(x, t), wanted(x, t))
    assert identical(Timeline([(500.0, guided)])(x, 3.0), guided(x, 3.0))


def test_timelines_that_make_no_sense_are_refused():
    _, denoise, _ = parts("vp")
    flow = NetworkDenoiser(Listener(), Flow(), "flow")
    with pytest.raises(ValueError, match="segments is empty"):
        Timeline([])
    with pytest.raises(ValueError, match="end at 300 and then at 300"):
        Timeline([(300.0, denoise), (300.0, denoise)])
    with pytest.raises(ValueError, match="processes"):
        Timeline([(300.0, denoise), (200.0, flow)])
