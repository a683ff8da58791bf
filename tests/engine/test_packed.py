"""The packed engine computes what the network does, whatever was done to the network since."""

import copy
import gc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from weakref import ref

import pytest
import torch
from torch import Tensor, nn
from unet_twins import SD1, inputs

from autoencoder.config import AutoencoderConfig
from autoencoder.kl import KLAutoencoder
from autoencoder.seamless import seamless
from autoencoder.tiled import decode_in_tiles
from autoencoder.tiles import Tiling
from conditioning.bundle import Conditioning
from conditioning.clip.transformer import ClipTextConfig, ClipTextModel
from ldm.adapters.lora.view import with_weights
from ldm.denoiser import NetworkDenoiser
from ldm.engine import packed_layers
from ldm.engine.eager import EAGER
from ldm.engine.onednn import packed_dtypes
from ldm.engine.packed import PackedEngine
from ldm.engine.packed_layers import KINDS, PackedLinear
from ldm.guidance import GuidanceSettings, guide
from ldm.networks.attention import Attending, set_attention
from ldm.networks.options import NetworkOptions, Residuals
from ldm.networks.unet import UNet, UNetConfig
from ldm.networks.unet.resample import Upsample
from ldm.process import DiscreteVP

pytestmark = pytest.mark.skipif(not packed_dtypes(), reason="this PyTorch has no oneDNN")

SDXL = UNetConfig(
    widths=(32, 64, 64),
    transformer_layers=(0, 1, 2),
    mid_transformer_layers=2,
    num_heads=(1, 2, 4),
    context_dim=24,
    linear_projection=True,
    norm_groups=8,
    pooled_dim=10,
    size_embedding_dim=6,
)
CONFIGS = {
    "sd1": replace(SD1, widths=(32, 32, 64, 64)),
    "sdxl": SDXL,
    "upscaler": replace(SD1, num_classes=11, only_cross_attention=(True, True, True, False)),
    "classes": replace(SD1, num_classes=11, class_tokens=True, mid_transformer_layers=0),
}
BF16 = pytest.param(torch.bfloat16, marks=pytest.mark.skipif(torch.bfloat16 not in packed_dtypes(), reason="no bf16"))


@pytest.fixture(autouse=True)
def drawing():
    with torch.inference_mode():
        yield


@torch.inference_mode(False)
def network(config: UNetConfig = CONFIGS["sd1"]) -> UNet:
    torch.manual_seed(0)
    return UNet(config).requires_grad_(False).eval()


def close(ours: Tensor, theirs: Tensor) -> None:
    """Equal but for fp32's rounding."""
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def check(run, unet: nn.Module, config: UNetConfig = CONFIGS["sd1"], **size) -> None:
    x, time, conditioning = inputs(config, **size)
    close(run(x, time, conditioning), unet(x, time, conditioning))


def packed_by(engine: PackedEngine) -> int:
    """How many layers have something packed."""
    return sum(kept._last is not None for kept in engine._kept.values())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [(16, 16), (8, 24), (13, 7), (40, 32)])
def test_it_computes_what_the_network_does_for_all_shapes(name, size):
    config = CONFIGS[name]
    unet, engine = network(config), PackedEngine()
    run = engine.network(unet)
    for batch in (1, 4, 2):  # packed at the first
        check(run, unet, config, size=size, batch=batch)
    assert packed_by(engine) > 20


@pytest.mark.parametrize("dtype", [BF16])
@pytest.mark.parametrize("name", CONFIGS)
def test_in_bf16_it_is_as_near_to_the_exact_network_as_the_eager_engine(name, dtype):
    exact, (x, time, conditioning) = network(CONFIGS[name]), inputs(CONFIGS[name], (32, 40))
    x, conditioning = x.to(dtype), _cast(conditioning, dtype)
    unet = copy.deepcopy(exact).to(dtype)
    exact.load_state_dict(unet.state_dict())
    truth = exact(x.float(), time, _cast(conditioning, torch.float32))
    packed, eager = (each(x, time, conditioning).float() for each in (PackedEngine().network(unet), unet))
    assert (packed - truth).square().mean() < 2 * (eager - truth).square().mean()


def _cast(conditioning: Conditioning, dtype: torch.dtype) -> Conditioning:
    tokens, pooled = (None if each is None else each.to(dtype) for each in (conditioning.tokens, conditioning.pooled))
    return replace(conditioning, tokens=tokens, pooled=pooled)


def test_the_network_itself_stays_and_its_function_is_made_once():
    unet, engine = network(), PackedEngine()
    before, modules = copy.deepcopy(unet.state_dict()), list(unet.modules())
    check(engine.network(unet), unet)
    assert engine.network(unet) is engine.network(unet)
    assert all(ours is theirs for ours, theirs in zip(unet.modules(), modules, strict=True))
    assert {type(layer).__module__ for layer in unet.modules()}.isdisjoint({packed_layers.__name__})
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


def test_keys_and_values_are_computed_anew_for_other_words_only():
    unet, computed = network(), []
    attentions = [layer for name, layer in unet.named_modules() if name.endswith("attn2")]
    for attention in attentions:
        attention.to_k.register_forward_hook(lambda *layer: computed.append("k"))
        attention.to_v.register_forward_hook(lambda *layer: computed.append("v"))
    run, (x, time, conditioning) = PackedEngine().network(unet), inputs(CONFIGS["sd1"])
    other = replace(conditioning, tokens=conditioning.tokens.flip(0))
    for words, counted in ((conditioning, 2), (conditioning, 0), (other, 2), (other, 0), (conditioning, 2)):
        out, count = run(x, time, words), len(computed)
        close(out, unet(x, time, words))
        assert count == counted * len(attentions)
        computed.clear()


def test_a_hook_may_write_to_the_keys_that_it_is_given():
    unet, (x, time, conditioning) = network(), inputs(CONFIGS["sd1"])
    run = PackedEngine().network(unet)
    plain = unet(x, time, conditioning)

    def hook(layer, q, k, v, mask):
        return layer.attend(q, k.mul_(0.5), v.neg_(), mask)

    for _ in range(2):
        close(
            run(x, time, conditioning, NetworkOptions(hook=hook)),
            unet(x, time, conditioning, NetworkOptions(hook=hook)),
        )
        close(run(x, time, conditioning), plain)


def test_residuals_and_perturbed_attention_are_hosted():
    unet, (x, time, conditioning) = network(), inputs(CONFIGS["sd1"], batch=1)
    engine = PackedEngine()
    skips = []
    for layer in (unet.conv_in, *(block for level in unet.down_blocks for block in _outputs(level))):
        layer.register_forward_hook(lambda layer, inputs, output: skips.append(torch.full_like(output, 0.1)))
    unet.mid_block.register_forward_hook(lambda layer, inputs, output: skips.append(torch.full_like(output, 0.2)))
    unet(x, time, conditioning)
    options = NetworkOptions(Residuals(tuple(skips[:-1]), skips[-1]))
    close(engine.network(unet)(x, time, conditioning, options), unet(x, time, conditioning, options))
    settings = GuidanceSettings(guidance_scale=3.0, pag_scale=2.0)
    negative = replace(conditioning, tokens=conditioning.tokens * 0)
    ours, theirs = (
        guide(NetworkDenoiser(unet, DiscreteVP(), "epsilon", conditioning, engine=each), negative, settings)
        for each in (engine, EAGER)
    )
    torch.testing.assert_close(ours(x, 500.0).eps, theirs(x, 500.0).eps, atol=1e-4, rtol=1e-4)


def _outputs(level: nn.Module) -> list[nn.Module]:
    return [*(level.attentions or level.resnets), *level.downsamplers]


@pytest.mark.parametrize("reported", [True, False])
def test_changed_and_replaced_weights_count_at_once(reported):
    unet, engine = network(), PackedEngine()
    run = engine.network(unet)
    check(run, unet)
    block = unet.mid_block.attentions[0].transformer_blocks[0]
    with torch.inference_mode(False), torch.no_grad():
        for layer in (
            unet.conv_in,
            block.attn1.to_q,
            block.attn2.to_k,
            block.ff.net[0].proj,
            unet.mid_block.resnets[0].norm1,
        ):
            layer.weight.mul_(1.5)  # in place
        unet.conv_out.weight = nn.Parameter(unet.conv_out.weight * 2, requires_grad=False)
        block.attn2.to_v.weight.data = block.attn2.to_v.weight * 3  # as LoRAs do
    if reported:
        engine.weights_changed()
        assert packed_by(engine) == 0
    check(run, unet)


def test_replaced_layers_and_attention_backends_count_from_the_next_network():
    unet, engine = network(), PackedEngine()
    engine.network(unet)
    unet.conv_in = nn.Conv2d(4, 32, 3, padding=1).requires_grad_(False)
    set_attention(unet, "math")
    check(engine.network(unet), unet)
    seen = set()
    x, time, conditioning = inputs(CONFIGS["sd1"])

    def hook(layer, *parts):
        seen.add((layer.name, layer.backend))
        return layer.attend(*parts)

    engine.network(unet)(x, time, conditioning, NetworkOptions(hook=hook))
    assert seen == {(each.name, "math") for each in unet.modules() if isinstance(each, Attending)}


def test_hooks_of_layers_run_in_the_view():
    unet, seen = network(), []
    run = PackedEngine().network(unet)
    unet.conv_in.register_forward_hook(lambda layer, inputs, output: seen.append(output.shape))
    x, time, conditioning = inputs(CONFIGS["sd1"])
    run(x, time, conditioning)
    assert seen == [(3, 32, 16, 16)]


def test_views_of_a_network_share_what_is_packed_and_compute_what_they_do():
    unet, engine = network(), PackedEngine()
    check(engine.network(unet), unet)
    count = packed_by(engine)
    changed = with_weights(unet, {unet.conv_in: {"weight": unet.conv_in.weight * 2}})
    check(engine.network(changed), changed)
    assert packed_by(engine) == count + 1  # the layer that is another one
    pattern = seamless(unet, (True, True))
    check(engine.network(pattern), pattern)
    assert packed_by(engine) <= count + 2


def test_networks_that_are_gone_leave_nothing_behind():
    unet, engine = network(), PackedEngine()
    check(engine.network(unet), unet)
    gone = ref(unet)
    del unet
    gc.collect()
    assert gone() is None
    assert not engine._views
    assert not engine._kept


@pytest.mark.parametrize("size", [(8, 8), (16, 9), (3, 5)])
@pytest.mark.parametrize("odd", [False, True])
def test_doubling_before_a_convolution_gives_every_size_and_counts_changed_weights(size, odd, monkeypatch):
    monkeypatch.setattr(packed_layers, "_WORTH_FOLDING", 64)
    with torch.inference_mode(False):
        layer = Upsample(16).requires_grad_(False)
    packed = PackedEngine().view(nn.Sequential(layer))[0]
    x = torch.randn(2, 16, *size, generator=torch.Generator().manual_seed(0))
    height, width = (2 * each - odd for each in size)
    for _ in range(2):
        close(packed(x, (height, width)), layer(x, (height, width)))
        with torch.inference_mode(False), torch.no_grad():
            layer.conv.weight.mul_(1.5)
            layer.conv.bias.add_(1)


@pytest.mark.parametrize("module", [lambda: network(), lambda: autoencoder()], ids=["unet", "autoencoder"])
def test_every_layer_is_packed_also_inside_of_packed_ones(module):
    plain = module()
    packed = dict(PackedEngine().view(plain).named_modules())
    kinds = {name: KINDS[type(layer)] for name, layer in plain.named_modules() if type(layer) in KINDS}
    assert kinds and all(isinstance(packed[name], kind | PackedLinear) for name, kind in kinds.items())


def test_the_feed_forward_of_many_tokens_is_that_of_each(monkeypatch):
    unet = network()
    whole = PackedEngine().network(unet)
    monkeypatch.setattr(packed_layers, "_CACHED", 1000)
    check(PackedEngine().network(unet), unet)
    x, time, conditioning = inputs(CONFIGS["sd1"])
    close(PackedEngine().network(unet)(x, time, conditioning), whole(x, time, conditioning))


@torch.inference_mode(False)
def autoencoder() -> KLAutoencoder:
    torch.manual_seed(0)
    made = KLAutoencoder(AutoencoderConfig(widths=(16, 32), blocks_per_level=1, norm_groups=4, latent_channels=4))
    return made.requires_grad_(False).eval()


@pytest.mark.parametrize("size", [(8, 8), (24, 14)])
@pytest.mark.parametrize("wraps", [None, (True, False)])
def test_an_autoencoder_codes_as_it_does_whole_and_in_tiles(size, wraps):
    plain, engine = autoencoder(), PackedEngine()
    plain = plain if wraps is None else seamless(plain, wraps)
    packed = engine.view(plain)
    assert engine.view(plain) is packed
    draw = torch.Generator().manual_seed(0)
    z, x = torch.randn(2, 4, *size, generator=draw), torch.randn(2, 3, 2 * size[0], 2 * size[1], generator=draw)
    close(packed.decode(z), plain.decode(z))
    close(packed.encode(x).mean, plain.encode(x).mean)
    assert packed_by(engine) > 20
    tiling = Tiling(8, 4, wraps=wraps or (False, False))
    ours, theirs = (
        decode_in_tiles(each, z, tiling, 2, lambda network, part: network.decode(part)) for each in (packed, plain)
    )
    close(ours, theirs)


def test_a_text_tower_reads_as_it_does():
    with torch.inference_mode(False):
        torch.manual_seed(0)
        plain = ClipTextModel(
            ClipTextConfig(vocab_size=99, hidden_size=32, intermediate_size=64, eos_token_id=98), True
        )
        plain.requires_grad_(False).eval()
    engine = PackedEngine()
    ids = torch.arange(2 * 20).view(2, 20) + 59
    for ours, theirs in zip(engine.view(plain)(ids)[:3], plain(ids)[:3], strict=True):
        close(ours, theirs)
    assert packed_by(engine) > 20


def test_two_threads_compute_what_one_does():
    unet, engine = network(), PackedEngine()
    sizes = [(16, 16), (8, 24)] * 4
    expected = [unet(*inputs(CONFIGS["sd1"], size)) for size in sizes]

    @torch.inference_mode()
    def compute(size):
        return engine.network(unet)(*inputs(CONFIGS["sd1"], size))

    with ThreadPoolExecutor(2) as threads:
        for ours, theirs in zip(threads.map(compute, sizes), expected, strict=True):
            close(ours, theirs)


@torch.inference_mode(False)
def test_with_gradients_it_computes_those_of_the_network():
    unet = network()
    run, (x, time, conditioning) = PackedEngine().network(unet), inputs(CONFIGS["sd1"])
    gradients = []
    for each in (run, unet):
        leaf = x.clone().requires_grad_()
        each(leaf, time, conditioning).square().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_in_other_types_layers_compute_as_they_are(dtype):
    unet = network().to(dtype)
    engine, (x, time, conditioning) = PackedEngine(), inputs(CONFIGS["sd1"])
    x, conditioning = x.to(dtype), _cast(conditioning, dtype)
    assert torch.equal(engine.network(unet)(x, time, conditioning), unet(x, time, conditioning))
    assert packed_by(engine) == 0


def test_weights_that_memory_does_not_hold_twice_are_left_as_they_are(monkeypatch, caplog):
    unet = network()
    size = sum(layer.weight.nbytes for layer in unet.modules() if isinstance(layer, nn.Linear | nn.Conv2d))
    for free, packs in ((2 * size, True), (size, False)):
        caplog.clear()
        monkeypatch.setattr("psutil.virtual_memory", lambda free=free: SimpleNamespace(available=free))
        engine = PackedEngine()
        check(engine.network(unet), unet)
        assert (packed_by(engine) > 0) is packs
        assert [line.endswith("of free memory; using eager") for line in caplog.messages] == [True] * (not packs)


def test_without_onednn_it_is_refused_in_a_line(monkeypatch):
    monkeypatch.setattr("ldm.engine.packed.packed_dtypes", lambda: frozenset())
    with pytest.raises(ValueError, match=r"the packed engine needs oneDNN"):
        PackedEngine()
