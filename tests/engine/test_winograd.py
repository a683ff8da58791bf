"""Winograd's convolutions are convolutions, however they are cut into parts, and are taken where they are faster."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm.engine import packed_layers, winograd
from ldm.engine.onednn import packed_dtypes
from ldm.engine.packed import PackedEngine
from ldm.engine.winograd import convolve, is_worth_it, most_bytes, pack_kernel

pytestmark = pytest.mark.skipif(not packed_dtypes(), reason="this PyTorch has no oneDNN")


@pytest.fixture(autouse=True)
def drawing():
    with torch.inference_mode():
        yield


def layers(*shape: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """A map of that shape, channels_last, a 3x3 kernel and a bias."""
    torch.manual_seed(0)
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    return x, torch.randn(outputs, shape[1], 3, 3) / (9 * shape[1]) ** 0.5, torch.randn(outputs)


def check(x: Tensor, kernel: Tensor, bias: Tensor | None, padding: tuple[int, int] = (1, 1)) -> None:
    """It is the sum of the definition, to some roundings of fp32."""
    truth = F.conv2d(x.double(), kernel.double(), None if bias is None else bias.double(), padding=padding)
    ours = convolve(x, pack_kernel(kernel), bias, padding)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours.double(), truth, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tiles", [1, 2, 7, 16, 40, 1000])
@pytest.mark.parametrize("shape", [(3, 5, 8, 12), (1, 16, 2, 2), (2, 7, 14, 6)])
def test_it_is_the_convolution_in_any_parts(shape: tuple[int, ...], tiles: int, monkeypatch) -> None:
    monkeypatch.setattr(winograd, "_TILES", tiles)
    check(*layers(*shape, outputs=9))


@pytest.mark.parametrize("padding", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_any_padding_and_no_bias(padding: tuple[int, int], monkeypatch) -> None:
    monkeypatch.setattr(winograd, "_TILES", 4)
    x, kernel, bias = layers(2, 6, 10, 8, outputs=5)
    check(x, kernel, bias, padding)
    check(x, kernel, None, padding)


def test_part_of_a_map_and_other_memory_formats_are_read_as_they_are() -> None:
    x, kernel, bias = layers(2, 6, 20, 8, outputs=5)
    check(x[:, :, 3:13], kernel, bias)
    check(x.contiguous(), kernel, bias)


def test_every_cell_and_every_weight_counts() -> None:
    """One cell of the map or of the kernel that is not zero: sums cannot make up for a place that is left out."""
    for place in range(6 * 4):
        x = torch.zeros(1, 1, 24).scatter_(2, torch.tensor([[[place]]]), 1.0).view(1, 1, 6, 4)
        check(x.contiguous(memory_format=torch.channels_last), torch.arange(1.0, 10).view(1, 1, 3, 3), None)
    x, _, _ = layers(1, 1, 6, 4, outputs=1)
    for place in range(9):
        check(x, torch.eye(9)[place].view(1, 1, 3, 3), torch.tensor([0.5]))


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ({}, True),
        ({"stride": 2}, False),
        ({"dilation": 2, "padding": 2}, False),
        ({"kernel_size": 5, "padding": 2}, False),
        ({"kernel_size": 1, "padding": 0}, False),
        ({"groups": 2}, False),
        ({"padding": "same"}, False),
        ({"padding_mode": "circular"}, False),
        ({"out_channels": 8}, False),
    ],
)
def test_packed_layers_take_it_where_it_is_faster(change: dict, taken: bool, monkeypatch) -> None:
    counted = []
    monkeypatch.setattr(packed_layers.winograd, "convolve", lambda *given: counted.append(1) or convolve(*given))
    with torch.inference_mode(False):
        layer = nn.Conv2d(**{"in_channels": 192, "out_channels": 192, "kernel_size": 3, "padding": 1, **change})
    threads = torch.get_num_threads()
    side = 32 * threads  # so much work that it is worth it for all threads
    x = torch.randn(1, 192, side, 32).contiguous(memory_format=torch.channels_last)
    run = PackedEngine().view(nn.Sequential(layer).requires_grad_(False))
    for _ in range(2):
        torch.testing.assert_close(run(x), layer(x), atol=1e-5, rtol=1e-5)
    layer.weight.mul_(2)  # what is kept of the kernel belongs to these numbers
    torch.testing.assert_close(run(x), layer(x), atol=2e-5, rtol=1e-5)
    assert len(counted) == 3 * taken
    assert run(x[:, :, :9]).shape == layer(x[:, :, :9]).shape and len(counted) == 3 * taken  # odd: no whole tiles


def test_small_maps_few_channels_and_half_precision_are_left_to_the_direct_one() -> None:
    x, kernel, _ = layers(1, 256, 64 * torch.get_num_threads(), 64, outputs=256)
    assert is_worth_it(x, kernel, (1, 1))
    assert not is_worth_it(x[:, :, :8, :8], kernel, (1, 1))
    assert not is_worth_it(x[:, :64], kernel[:64, :64], (1, 1))
    assert not is_worth_it(x.bfloat16(), kernel.bfloat16(), (1, 1))
    assert most_bytes(kernel) == sum(place.nbytes for row in pack_kernel(kernel) for place in row)
    for other in (kernel.bfloat16(), kernel[:64, :64], kernel[..., :1, :1], kernel[..., 0, 0]):
        assert most_bytes(other) == other.nbytes
