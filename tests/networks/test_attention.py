"""All attention backends give the same, each network has its own, and one that cannot run gives way."""

import copy
import logging
from importlib.util import find_spec

import pytest
import torch
from unet_twins import SD1, inputs

from ldm.networks import attention
from ldm.networks.attention import attend, attention_backends, set_attention
from ldm.networks.hooks import HookPerPart
from ldm.networks.options import NetworkOptions
from ldm.networks.unet import UNet


def heads(queries=10, keys=7, dim=8, dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(2, queries, 3 * dim, generator=draw)
    k, v = torch.randn(2, 2, keys, 3 * dim, generator=draw)
    return tuple(x.to(dtype).unflatten(-1, (3, dim)).transpose(1, 2) for x in (q, k, v))


def softmax_attention(q, k, v, mask=None):
    scores = torch.einsum("bnqd,bnkd->bnqk", q.double(), k.double()) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
    return torch.einsum("bnqk,bnkd->bnqd", scores.softmax(-1), v.double())


@pytest.mark.parametrize("name", ["sdpa", "math", "xformers", "flash", "flash3", "sage", "cudnn"])
@pytest.mark.parametrize("masked", [False, True])
def test_every_backend_is_softmax_attention(name, masked):
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [1, 0, 1, 1, 1, 1, 0]]).bool() if masked else None
    torch.testing.assert_close(
        attend(*heads(), mask, name).double(), softmax_attention(*heads(), mask), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("name", ["sdpa", "math"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)], ids=str)
def test_gradients_agree(name, dtype, tolerance):
    parts = [part.detach().requires_grad_() for part in heads(dtype=dtype)]
    weight = torch.randn(2, 3, 10, 8, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad(softmax_attention(*parts), parts, weight.double())
    found = torch.autograd.grad(attend(*parts, backend=name), parts, weight.to(dtype))
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, exact, atol=tolerance, rtol=0)


def networks(count: int = 1) -> list[UNet]:
    torch.manual_seed(0)
    first = UNet(SD1).requires_grad_(False)
    return [first, *(copy.deepcopy(first) for _ in range(count - 1))]


@pytest.fixture
def forgotten():
    """As if no backend had been tried in this process."""
    attention._logged.clear()
    attention._runs.cache_clear()


@pytest.fixture
def counted(monkeypatch):
    """How often each of our own backends was called."""
    calls = dict.fromkeys(attention._OWN, 0)

    def counting(name, compute):
        def counted(*tensors):
            calls[name] += 1
            return compute(*tensors)

        return counted

    monkeypatch.setattr(attention, "_OWN", {name: counting(name, own) for name, own in attention._OWN.items()})
    return calls


def test_two_networks_in_a_process_have_different_backends(counted):
    first, second = networks(2)
    layers = len(first.self_attention_layers) * 2
    set_attention(second, "math")
    case = inputs(SD1)
    output = first(*case)
    assert counted == {"sdpa": layers, "math": 0}
    torch.testing.assert_close(second(*case), output, atol=1e-5, rtol=0)
    assert counted == {"sdpa": layers, "math": layers}
    set_attention(second, "sdpa")
    second(*case)
    assert counted == {"sdpa": 2 * layers, "math": layers}


def test_layers_that_a_hook_leaves_alone_keep_the_backend(counted):
    (network,) = networks()
    set_attention(network, "math")
    own = lambda layer, q, k, v, mask: layer.attend(q, k, v, mask)  # noqa: E731
    network(*inputs(SD1), NetworkOptions(hook=HookPerPart((None, own, None))))
    assert counted["sdpa"] == 0 and counted["math"] > 0


@pytest.mark.parametrize("name", ["xformers", "flash", "sage"])
def test_a_backend_that_cannot_run_here_gives_way_with_one_line(name, forgotten, caplog):
    # xformers installs beside the CPU build of torch and has no operator there; the others are not even installed.
    plain, network = networks(2)
    set_attention(network, name)
    with caplog.at_level(logging.WARNING, logger="ldm.networks.attention"):
        for size in ((16, 16), (8, 8)):
            case = inputs(SD1, size)
            torch.testing.assert_close(network(*case), plain(*case))
    (record,) = caplog.records
    assert name in record.getMessage() and "float32 heads of width 4 on cpu" in record.getMessage()


def test_every_backend_says_whether_it_runs_and_why_not():
    backends = {backend.name: backend for backend in attention_backends()}
    assert list(backends)[:2] == ["sdpa", "math"] and backends["sdpa"].usable and backends["math"].usable
    assert all(backend.usable == (backend.reason == "") for backend in backends.values())
    for name, package in (("xformers", "xformers"), ("sage", "sageattention"), ("flash", "flash_attn")):
        if find_spec(package) is None:
            assert backends[name].reason == f"package {package} is not installed"


def test_unknown_backend_offers_the_nearest():
    with pytest.raises(ValueError, match=r"attention backend 'xformrs'.*'xformers'"):
        set_attention(networks()[0], "xformrs")
