"""Rolling what a seamless network is given rolls what it gives; the network itself stays as it is."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from unet_twins import SD1, inputs

from autoencoder.config import AutoencoderConfig
from autoencoder.kernels import cpu_kernels
from autoencoder.kl import KLAutoencoder
from autoencoder.seamless import seamless
from autoencoder.tiny import TinyAutoencoder
from ldm.networks.unet import UNet
from ldm.networks.upscaler.config import UpscalerConfig
from ldm.networks.upscaler.model import Upscaler

SMALL = AutoencoderConfig(widths=(8, 8, 16), blocks_per_level=1, norm_groups=4, attention_levels=(1,))
WRAPS = [(True, True), (False, True), (True, False)]


def maps(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def filled(network: nn.Module) -> nn.Module:
    """With random weights also where a new network has zeros."""
    generator = torch.Generator().manual_seed(2)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return network.eval().requires_grad_(False)


def rolls(make, x: Tensor, step: tuple[int, int], scale: float, wraps: tuple[bool, bool]) -> None:
    """`make` of the rolled x is its rolled output along the axes that go round, to rounding."""
    moved = tuple(cells * goes_round for cells, goes_round in zip(step, wraps, strict=True))
    wanted = make(x).roll([int(cells * scale) for cells in moved], (2, 3))
    torch.testing.assert_close(make(x.roll(moved, (2, 3))), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wraps", WRAPS)
@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_rolled_noise_gives_the_rolled_prediction(wraps, kernels: bool, layout: torch.memory_format) -> None:
    config = replace(SD1, widths=(8, 16, 16), transformer_layers=(1, 1, 0), num_heads=(2, 2, 2))
    plain = filled(UNet(config))
    network = seamless(plain, wraps)
    x, time, conditioning = inputs(config, (40, 24))

    def predict(x: Tensor) -> Tensor:
        return network(x.contiguous(memory_format=layout), time, conditioning)

    with torch.no_grad(), cpu_kernels(kernels):
        rolls(predict, x, (4, -8), 1, wraps)
        assert (predict(x) - plain(x, time, conditioning)).abs().max() > 1e-3


@pytest.mark.parametrize("wraps", WRAPS)
@pytest.mark.parametrize("kernels", [True, False])
def test_rolled_latents_give_the_rolled_picture_and_back(wraps, kernels: bool) -> None:
    network = seamless(filled(KLAutoencoder(SMALL)), wraps)
    with torch.no_grad(), cpu_kernels(kernels):
        rolls(network.decode, maps(1, 4, 6, 10), (1, 3), 4, wraps)
        rolls(lambda x: network.encode(x).mean, maps(1, 3, 24, 40), (4, -8), 1 / 4, wraps)


def test_taesd_and_the_upscaler_too() -> None:
    tiny = seamless(filled(TinyAutoencoder(AutoencoderConfig(widths=(8, 8, 8), norm_groups=4))), (True, True))
    upscaler = seamless(filled(Upscaler(UpscalerConfig(width=8, blocks=2, factor=4))), (True, True))
    with torch.no_grad():
        rolls(tiny.decode, maps(1, 4, 6, 10), (1, 3), 4, (True, True))
        rolls(lambda x: tiny.encode(x).mean, maps(1, 3, 24, 40), (4, -8), 1 / 4, (True, True))
        rolls(upscaler, maps(1, 3, 6, 10), (1, 3), 4, (True, True))


def test_along_the_other_axis_nothing_changes() -> None:
    """A picture that goes round in x alone is, far from left and right, what it always was."""
    network = filled(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)))
    x = maps(1, 3, 9, 20)
    with torch.no_grad():
        plain, wrapped = network(x), seamless(network, (False, True))(x)
    torch.testing.assert_close(wrapped[..., 2:-2], plain[..., 2:-2])
    assert (wrapped - plain)[..., [0, -1]].abs().max() > 1e-3


def test_the_network_itself_is_left_alone_and_all_weights_are_shared() -> None:
    network = filled(KLAutoencoder(SMALL))
    z = maps(1, 4, 5, 5)
    with torch.no_grad():
        before = network.decode(z)
        view = seamless(network, (True, True))
        assert not torch.equal(view.decode(z), before)
        assert torch.equal(network.decode(z), before)
    assert {id(each) for each in view.parameters()} == {id(each) for each in network.parameters()}
