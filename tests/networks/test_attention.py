"""All attention backends give the same; one that cannot run gives way with one line in the log."""

import logging
from importlib.util import find_spec

import pytest
import torch

from ldm.networks.attention import attend, set_backend


@pytest.fixture(autouse=True)
def _restored():
    before = set_backend("auto")
    yield
    set_backend(before)


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


@pytest.mark.parametrize("name", ["auto", "sdpa", "math", "xformers", "flash", "flash3", "sage", "cudnn"])
@pytest.mark.parametrize("masked", [False, True])
def test_every_backend_is_softmax_attention(name, masked):
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [1, 0, 1, 1, 1, 1, 0]]).bool() if masked else None
    set_backend(name)
    torch.testing.assert_close(attend(*heads(), mask).double(), softmax_attention(*heads(), mask), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["auto", "sdpa", "math"])
@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.05)], ids=str)
def test_gradients_agree(name, dtype, tolerance):
    set_backend(name)
    parts = [part.detach().requires_grad_() for part in heads(dtype=dtype)]
    weight = torch.randn(2, 3, 10, 8, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad(softmax_attention(*parts), parts, weight.double())
    found = torch.autograd.grad(attend(*parts), parts, weight.to(dtype))
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, exact, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", ["xformers", "flash", "sage"])
def test_a_backend_that_cannot_run_here_gives_way_with_one_line(name, caplog):
    # xformers installs beside the CPU build of torch and has no operator there; the others are not even installed.
    set_backend(name)
    with caplog.at_level(logging.WARNING, logger="ldm.networks.attention"):
        for dim in (24, 40, 24):
            torch.testing.assert_close(attend(*heads(dim=dim)), attend(*heads(dim=dim)))
    lines = [record for record in caplog.records if record.name == "ldm.networks.attention"]
    assert len(lines) <= 1, "one line for a backend in a process, whichever test came first"


def test_the_line_names_the_backend_and_the_reason(caplog):
    from ldm.networks import attention

    attention._logged.clear()
    attention._runs.cache_clear()
    set_backend("xformers")
    with caplog.at_level(logging.WARNING, logger="ldm.networks.attention"):
        attend(*heads()), attend(*heads(dim=16))
    (record,) = caplog.records
    assert "xformers" in record.getMessage() and "float32 heads of width 8 on cpu" in record.getMessage()
    assert find_spec("xformers") is not None or "not installed" in record.getMessage()


def test_unknown_backend_offers_the_nearest():
    with pytest.raises(ValueError, match=r"attention backend 'xformrs'.*'xformers'"):
        set_backend("xformrs")


def test_the_choice_can_be_put_back():
    assert set_backend("math") == "auto"
    assert set_backend("auto") == "math"
