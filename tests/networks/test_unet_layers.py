"""The fast layers compute what PyTorch's plain ones do, forward and backward."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autoencoder.norm import group_norm
from ldm.networks.embeddings import sinusoid
from ldm.networks.unet.convolution import convolve
from ldm.networks.unet.geglu import geglu
from ldm.networks.unet.resample import Upsample, double_and_convolve


def gradients(output, inputs):
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(3)).to(output.dtype)
    return torch.autograd.grad(output, inputs, weight)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("silu", [True, False])
def test_group_norm_is_pytorchs(layout, silu):
    torch.manual_seed(0)
    norm = nn.GroupNorm(4, 24)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x = (3 * torch.randn(5, 24, 6, 10) + 20).contiguous(memory_format=layout).requires_grad_()
    output = group_norm(x, norm, silu)
    expected = F.group_norm(x.double(), 4, norm.weight.double(), norm.bias.double(), norm.eps)
    expected = F.silu(expected) if silu else expected
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=0)
    parts = (x, norm.weight, norm.bias)
    for ours, theirs in zip(gradients(output, parts), gradients(expected, parts), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert output.is_contiguous(memory_format=layout)


def test_group_norm_in_parts_is_the_whole():
    torch.manual_seed(0)
    norm = nn.GroupNorm(2, 8)
    x = torch.randn(40, 8, 32, 32).contiguous(memory_format=torch.channels_last).requires_grad_()
    whole, single = group_norm(x, norm, True), torch.cat([group_norm(part, norm, True) for part in x.split(1)])
    torch.testing.assert_close(whole, single, atol=1e-6, rtol=0)
    torch.testing.assert_close(gradients(whole, (x,))[0], gradients(single, (x,))[0], atol=1e-6, rtol=0)


def test_group_norm_rounds_bf16_once():
    torch.manual_seed(0)
    norm = nn.GroupNorm(4, 16)
    x = (torch.randn(3, 16, 8, 8) + 5).bfloat16().contiguous(memory_format=torch.channels_last)
    expected = F.silu(F.group_norm(x.double(), 4, norm.weight.double(), norm.bias.double(), norm.eps))
    torch.testing.assert_close(group_norm(x, norm, True).double(), expected, atol=1e-6, rtol=2**-8)


@pytest.mark.parametrize(
    "kernel,padding,biased,width", [(3, 1, True, 3), (2, 1, True, 3), (1, 0, False, 3), (3, 1, True, 16)]
)
def test_small_maps_in_bf16_have_the_gradients_of_a_convolution(kernel, padding, biased, width):
    torch.manual_seed(0)
    x = torch.randn(2, 256, 4, width).bfloat16().requires_grad_()
    weight = (torch.randn(512, 256, kernel, kernel) / 16).requires_grad_()
    bias = torch.randn(512).requires_grad_() if biased else None
    parts = [part for part in (x, weight, bias) if part is not None]
    with torch.autocast("cpu", torch.bfloat16):
        output = convolve(x, weight, bias, padding)
    assert type(output.grad_fn).__name__ == "_SmallMapBackward"
    rounded = [None if part is None else part.detach().bfloat16().double().requires_grad_() for part in (weight, bias)]
    exact = x.detach().double().requires_grad_()
    expected = F.conv2d(exact, *rounded, padding=padding)
    gradient = torch.randn_like(expected).bfloat16()
    expected.backward(gradient.double())
    output.backward(gradient)
    torch.testing.assert_close(output.double(), expected, atol=2**-6, rtol=2**-7)
    theirs = [part.grad for part in (exact, *rounded) if part is not None]
    for part, true in zip(parts, theirs, strict=True):
        torch.testing.assert_close(part.grad.double(), true, atol=2**-6, rtol=2**-7)


@pytest.mark.parametrize("shape", [(2, 3, 20), (3, 700, 512)], ids=str)
@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)], ids=str)
def test_gate_is_gelu_times_value(shape, dtype, tolerance):
    torch.manual_seed(0)
    x = torch.randn(shape).to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    value, gate = exact.chunk(2, -1)
    expected, output = value * F.gelu(gate), geglu(x)
    torch.testing.assert_close(output.double(), expected, atol=tolerance, rtol=tolerance)
    gradient = torch.randn_like(expected).to(dtype)
    expected.backward(gradient.double())
    output.backward(gradient)
    torch.testing.assert_close(x.grad.double(), exact.grad, atol=2 * tolerance, rtol=2 * tolerance)
    with torch.no_grad():
        torch.testing.assert_close(geglu(x), output, atol=0, rtol=0)


@pytest.mark.parametrize("size", [(5, 6), (1, 1), (4, 2)], ids=str)
def test_doubling_folded_into_the_kernel_is_doubling(size):
    torch.manual_seed(0)
    x = torch.randn(3, 8, *size).contiguous(memory_format=torch.channels_last).requires_grad_()
    conv = nn.Conv2d(8, 12, 3, padding=1)
    parts = (x, conv.weight, conv.bias)
    folded = double_and_convolve(x, conv.weight, conv.bias)
    plain = conv(F.interpolate(x, scale_factor=2, mode="nearest"))
    torch.testing.assert_close(folded, plain, atol=1e-5, rtol=0)
    for ours, theirs in zip(gradients(folded, parts), gradients(plain, parts), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch,size", [(1, (8, 8)), (64, (8, 8)), (64, (7, 8))], ids=str)
def test_upsampling_reaches_the_size_of_the_skip(batch, size):
    torch.manual_seed(0)
    up, x = Upsample(4), torch.randn(batch, 4, 4, 4).contiguous(memory_format=torch.channels_last)
    expected = up.conv(F.interpolate(x, size=size, mode="nearest"))
    torch.testing.assert_close(up(x, size), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dim", [8, 9, 320])
def test_sinusoid_is_diffusers(dim):
    from diffusers.models.embeddings import get_timestep_embedding

    time = torch.tensor([0.0, 0.5, 3.0, 999.0])
    expected = get_timestep_embedding(time, dim, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(sinusoid(time, dim), expected, atol=1e-6, rtol=0)
