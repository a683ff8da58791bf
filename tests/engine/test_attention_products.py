"""Attention as matrix products is attention, and the packed engine takes it for many tokens only."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from unet_twins import SD1, inputs

from autoencoder.blocks import Attention
from ldm.engine import attention_products
from ldm.engine.attention_products import attention_by_products, is_worth_products
from ldm.engine.onednn import packed_dtypes
from ldm.engine.packed import PackedEngine
from ldm.networks.attention import set_attention
from ldm.networks.options import NetworkOptions
from ldm.networks.unet import UNet

pytestmark = pytest.mark.skipif(not packed_dtypes(), reason="this PyTorch has no oneDNN")


@pytest.fixture(autouse=True)
def drawing():
    with torch.inference_mode():
        yield


def close(ours: Tensor, theirs: Tensor) -> None:
    """Equal but for fp32's rounding."""
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def check(run, unet: nn.Module) -> None:
    x, time, conditioning = inputs(SD1)
    close(run(x, time, conditioning), unet(x, time, conditioning))


@pytest.mark.parametrize(
    ("batch", "heads", "queries", "keys", "dim"), [(2, 3, 70, 70, 40), (1, 2, 130, 77, 16), (3, 1, 1, 5, 8)]
)
@pytest.mark.parametrize("cached", [1, 1000, 2**19])
def test_it_is_as_near_to_exact_attention_as_pytorch_is(batch, heads, queries, keys, dim, cached, monkeypatch):
    monkeypatch.setattr(attention_products, "_CACHED", cached)
    monkeypatch.setattr(attention_products, "_LEAST_ROWS", 1)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(batch, length, heads, dim, generator=generator).transpose(1, 2) for length in (queries, keys, keys)
    )
    before = [x.clone() for x in (q, k, v)]
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    close(attention_by_products(q, k, v), exact.float())
    assert all(torch.equal(x, y) for x, y in zip((q, k, v), before, strict=True))


@pytest.mark.skipif(torch.bfloat16 not in packed_dtypes(), reason="no bf16")
def test_in_bf16_it_is_nearly_as_near_as_pytorch_is() -> None:
    """Scores in bf16 would be seven times as far off."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (1.5 * torch.randn(1, 2, 300, 40, generator=generator) for _ in range(3))
    q, k, v = (each.bfloat16() for each in (q, k, v))
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    ours, theirs = (
        (found.double() - exact).norm() / exact.norm()
        for found in (attention_by_products(q, k, v), F.scaled_dot_product_attention(q, k, v))
    )
    assert ours < 2 * theirs


def test_an_autoencoders_attention_of_many_tokens_is_by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x, counted = nn.Sequential(Attention(16, 4)).requires_grad_(False), torch.randn(2, 16, 9, 7), []

    def count(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        counted.append(q.shape)
        return attention_by_products(q, k, v)

    monkeypatch.setattr("ldm.engine.packed_layers.attention_by_products", count)
    view = PackedEngine().view(layer)
    close(view(x), layer(x))
    assert not counted
    monkeypatch.setattr(attention_products, "_WORTH_IT", 0)
    close(view(x), layer(x))
    assert counted == [(2, 1, 63, 16)]


def test_it_holds_for_scores_that_overflow_without_their_maximum():
    q = torch.eye(64)[None, None] * 1000
    out = attention_by_products(q, q, torch.arange(64.0).expand(64, 64).t()[None, None].contiguous())
    close(out, torch.arange(64.0)[:, None].expand(64, 64)[None, None])


def test_the_engine_takes_it_for_many_tokens_without_a_mask_and_by_the_default_backend(monkeypatch):
    with torch.inference_mode(False):
        torch.manual_seed(0)
        unet, counted = UNet(SD1).requires_grad_(False).eval(), []

    def count(q, k, v):
        counted.append(q.shape)
        return attention_by_products(q, k, v)

    monkeypatch.setattr("ldm.engine.packed_layers.attention_by_products", count)
    check(PackedEngine().network(unet), unet)
    assert not counted
    monkeypatch.setattr(attention_products, "_WORTH_IT", 0)
    run, layers = PackedEngine().network(unet), len([name for name, _ in unet.named_modules() if name.endswith("to_q")])
    check(run, unet)
    assert len(counted) == layers
    x, time, conditioning = inputs(SD1)
    run(x, time, conditioning, NetworkOptions(hook=lambda layer, *parts: layer.attend(*parts)))
    assert len(counted) == 2 * layers
    set_attention(unet, "math")
    check(PackedEngine().network(unet), unet)
    assert len(counted) == 2 * layers


def test_it_is_for_more_tokens_the_more_threads_there_are_and_not_for_bf16_by_amx(monkeypatch):
    many, few = torch.empty(1, 1, 512, 64), torch.empty(1, 1, 64, 64)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert is_worth_products(many, many)
    assert not is_worth_products(few, few)
    for amx in (False, True):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        assert is_worth_products(many, many)
        assert is_worth_products(many.bfloat16(), many.bfloat16()) is not amx
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert not is_worth_products(many, many)
