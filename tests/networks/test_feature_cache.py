"""Feature caching: diffusers' blocks as the oracle, and what is remembered for whom."""

import math

import pytest
import torch
from torch import Tensor
from unet_twins import SD1, inputs, twins

from conditioning.bundle import Conditioning
from ldm.denoiser import NetworkDenoiser
from ldm.engine.packed import PackedEngine
from ldm.networks.feature_cache import CacheSettings, FeatureCache
from ldm.networks.options import NetworkOptions
from ldm.networks.unet import UNet
from ldm.process import DiscreteVP


def denoiser(settings: CacheSettings, network: UNet | None = None) -> tuple[NetworkDenoiser, FeatureCache]:
    network = network or UNet(SD1).requires_grad_(False)
    torch.manual_seed(0)
    cache = FeatureCache(settings)
    conditioning = Conditioning(tokens=torch.randn(2, 5, 12))
    return NetworkDenoiser(network, DiscreteVP(), "epsilon", conditioning, cache=cache), cache


def maps(seed: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_an_evaluation_between_is_the_outermost_blocks_of_diffusers_on_features_of_the_last_whole_one():
    ours, theirs = twins(SD1)
    x, time, conditioning = inputs(SD1, (8, 8))
    tokens, later = conditioning.tokens, time - 40
    cache = FeatureCache(CacheSettings(deepcache=2))
    last = theirs.up_blocks[-1]
    entering: list[Tensor] = []
    hook = last.resnets[-1].register_forward_pre_hook(lambda module, given: entering.append(given[0]))
    with torch.no_grad():
        expected = theirs(x, time, tokens).sample
        whole = ours(x, time, conditioning, NetworkOptions(reuse=cache.call([(conditioning,)], 500.0)))
        torch.testing.assert_close(whole, expected, atol=1e-5, rtol=1e-4)
        hook.remove()
        deep = entering[0][:, : SD1.widths[0]]  # before the skip connection of conv_in
        shallow = theirs.conv_in(x + 0.1)
        vector = theirs.time_embedding(theirs.time_proj(later))
        y = last.attentions[-1](last.resnets[-1](torch.cat([deep, shallow], 1), vector), tokens).sample
        expected = theirs.conv_out(theirs.conv_act(theirs.conv_norm_out(y)))
        got = ours(x + 0.1, later, conditioning, NetworkOptions(reuse=cache.call([(conditioning,)], 460.0)))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    assert cache.deep_runs == 1


@pytest.mark.parametrize("engine", [None, PackedEngine])
@pytest.mark.parametrize("depth", [0, 1, 2, 3, 7, 11])
def test_a_network_that_always_runs_whole_is_the_plain_one_wherever_it_is_cut(depth: int, engine: type | None):
    torch.manual_seed(0)
    network = UNet(SD1).requires_grad_(False)
    run = engine().network(network) if engine else network
    conditioning, time = Conditioning(tokens=torch.randn(2, 5, 12)), torch.tensor([3.0, 900.0])
    cache = FeatureCache(CacheSettings(deepcache=2, deepcache_branch=depth))
    with torch.inference_mode():
        plain = run(maps(0), time, conditioning)
        cut = run(maps(0), time, conditioning, NetworkOptions(reuse=cache.call([(conditioning,)], 1.0)))
    assert torch.equal(cut, plain) and cache.deep_runs == 1


@pytest.mark.parametrize(("every", "evaluations"), [(1, 5), (2, 5), (3, 7), (3, 9), (4, 3)])
def test_the_deep_part_runs_at_every_nth_evaluation(every: int, evaluations: int):
    denoise, cache = denoiser(CacheSettings(deepcache=every))
    for step in range(evaluations):
        denoise(maps(step), 900.0 - step)
    assert cache.deep_runs == math.ceil(evaluations / every)


def test_interval_one_and_threshold_zero_are_plain_and_off():
    plain = denoiser(CacheSettings())[0]
    plain.cache = None
    for settings in (CacheSettings(deepcache=1), CacheSettings(first_block=0.0)):
        assert not settings.on
        denoise, _ = denoiser(settings)
        for step in range(3):
            assert torch.equal(denoise(maps(step), 900.0 - step).x0, plain(maps(step), 900.0 - step).x0)


def test_going_back_to_more_noise_and_another_size_run_whole():
    denoise, cache = denoiser(CacheSettings(deepcache=100))
    for t, x, runs in ((500.0, maps(0), 1), (400.0, maps(1), 1), (401.0, maps(2), 1), (501.0, maps(3), 2)):
        denoise(x, t)
        assert cache.deep_runs == runs
    denoise(torch.randn(2, 4, 8, 16), 400.0)
    assert cache.deep_runs == 3
    cache.forget()
    denoise(torch.randn(2, 4, 8, 16), 300.0)
    assert cache.deep_runs == 4


def test_gradients_flow_through_the_whole_network():
    denoise, _ = denoiser(CacheSettings(deepcache=100))
    denoise(maps(0), 500.0)
    x = maps(1).requires_grad_()
    plain, _ = denoiser(CacheSettings(), denoise.network)
    plain.cache = None
    assert torch.equal(denoise(x, 400.0).x0, plain(x, 400.0).x0)


@pytest.mark.parametrize("settings", [CacheSettings(deepcache=3), CacheSettings(first_block=1.0)])
def test_branches_are_remembered_apart(settings: CacheSettings):
    """Two branches in one call, and each alone, give the same at every evaluation; so does one that ends earlier."""
    denoise, _ = denoiser(settings)
    negative = Conditioning(tokens=torch.randn(2, 5, 12))
    own = denoise.conditioning
    alone = {each: denoiser(settings, denoise.network)[0] for each in (own, negative)}
    for step in range(2):
        t, x = 500.0 - step, maps(0) + 0.01 * step
        together = denoise.predict(x, t, [negative, own])
        for each, prediction in zip((negative, own), together, strict=True):
            (expected,) = alone[each].predict(x, t, [each])
            torch.testing.assert_close(prediction.x0, expected.x0, atol=1e-4, rtol=1e-4)
    (last,) = denoise.predict(maps(0), 498.0, [own])
    (expected,) = alone[own].predict(maps(0), 498.0, [own])
    torch.testing.assert_close(last.x0, expected.x0, atol=1e-4, rtol=1e-4)


def test_the_first_block_decides_for_each_picture_of_a_batch_by_itself():
    """The first picture stays, the second changes: the first is drawn from old features, the second is not."""
    denoise, cache = denoiser(CacheSettings(first_block=0.2))
    plain, _ = denoiser(CacheSettings(), denoise.network)
    plain.cache = None
    denoise(maps(0), 500.0)
    x = torch.stack([maps(0)[0] + 0.001, maps(1)[1]])
    mixed, whole = denoise(x, 499.0).x0, plain(x, 499.0).x0
    assert cache.deep_runs == 2
    assert torch.equal(mixed[1], whole[1]) and not torch.equal(mixed[0], whole[0])
    denoise(x + 0.001, 498.0)
    assert cache.deep_runs == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deepcache": 0}, "deepcache=0 is not possible; use 1 to 1,000"),
        ({"first_block": -0.1}, "first_block=-0.1 is not possible; use 0 to 10"),
        ({"deepcache": 2, "first_block": 0.1}, "use one of them"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        CacheSettings(**options)  # type: ignore[arg-type]
