"""Large maps in strips: the same numbers up to rounding, in less memory."""

import pytest
import torch
from full_maps import FullMaps
from torch import Tensor, nn

from autoencoder.blocks import Downsample, ResnetBlock, Upsample, convolved
from autoencoder.config import AutoencoderConfig
from autoencoder.kernels import GroupNorm, strips
from autoencoder.kl import KLAutoencoder
from autoencoder.seamless import seamless
from autoencoder.tiled import decode_in_tiles
from autoencoder.tiles import Tiling

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "LARGE", 0)
    monkeypatch.setattr(strips, "_STRIP", 1)
    monkeypatch.setattr(strips, "_LEAST_ROWS", 3)


@pytest.fixture
def autoencoder() -> KLAutoencoder:
    torch.manual_seed(0)
    config = AutoencoderConfig(widths=(8, 16), norm_groups=4, blocks_per_level=1, mid_attention=True)
    network = KLAutoencoder(config).eval().requires_grad_(False)
    for layer in network.modules():
        if isinstance(layer, nn.GroupNorm):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return network


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("height", [2, 3, 10, 13])
def test_a_block_in_strips_gives_what_it_gives_whole(
    height: int, dtype: torch.dtype, tolerance: float, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    x = _noise(2, 8, height, 6).to(dtype, memory_format=layout)
    for block in (ResnetBlock(8, 12, 4), ResnetBlock(8, 8, 2), Upsample(8), Downsample(8)):
        block = block.to(dtype, memory_format=layout)
        with torch.inference_mode():
            whole = block(x)
            with monkeypatch.context() as patch:
                patch.setattr(strips, "LARGE", 0)
                patch.setattr(strips, "_STRIP", 1)
                patch.setattr(strips, "_LEAST_ROWS", 3)
                found = block(x)
        assert found.is_contiguous(memory_format=layout)
        torch.testing.assert_close(found, whole, rtol=tolerance, atol=tolerance * float(whole.abs().max()))


@pytest.mark.parametrize("way", ["encode", "decode", "tiles", "seamless"])
def test_pictures_are_the_same(way: str, autoencoder: KLAutoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    z, x = _noise(2, 4, 9, 12), _noise(2, 3, 18, 24)

    def run() -> Tensor:
        with torch.inference_mode():
            if way == "encode":
                return autoencoder.encode(x).mean
            if way == "tiles":
                return decode_in_tiles(autoencoder, z, Tiling(6, 2), 2, lambda network, part: network.decode(part))
            return (seamless(autoencoder, (True, True)) if way == "seamless" else autoencoder).decode(z)

    whole = run()
    monkeypatch.setattr(strips, "LARGE", 0)
    monkeypatch.setattr(strips, "_STRIP", 1)
    monkeypatch.setattr(strips, "_LEAST_ROWS", 3)
    torch.testing.assert_close(run(), whole, rtol=1e-4, atol=1e-5)


def test_no_map_is_made_beside_what_a_block_is_given_and_gives(everything_is_large: None) -> None:
    block, x = ResnetBlock(8, 8, 4), _noise(1, 8, 32, 32)
    with torch.no_grad(), FullMaps(x.numel()) as made:
        block(x)
    assert made.count == 1, "what is between the convolutions, over which what comes out is written"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("height", [1, 3, 4, 10])
def test_over_what_was_given(height: int, layout: torch.memory_format, everything_is_large: None) -> None:
    layer, x = nn.Conv2d(8, 8, 3, padding=1), _noise(2, 8, height, 6).to(memory_format=layout)
    with torch.no_grad():
        whole, given = layer(x), x.clone()
        found = strips.in_place(layer, given)
    assert found is given
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)


def test_a_picture_does_not_depend_on_its_batch(everything_is_large: None, monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = ResnetBlock(8, 8, 4), _noise(3, 8, 32, 32)
    monkeypatch.setattr(strips, "LARGE", x[0].nbytes + 1)
    with torch.no_grad():
        assert not strips.is_large(x)
        monkeypatch.setattr(strips, "LARGE", x[0].nbytes)
        assert strips.is_large(x) and strips.is_large(x[:1])
        assert [*strips._rows(x)] == [*strips._rows(x[:1])]
        torch.testing.assert_close(block(x)[:1], block(x[:1]), rtol=1e-5, atol=1e-5)


def test_training_goes_as_before(everything_is_large: None) -> None:
    x = _noise(1, 8, 8, 8).requires_grad_()
    block = ResnetBlock(8, 8, 4)
    assert not strips.is_large(x)
    block(x).square().mean().backward()
    assert x.grad is not None and x.grad.abs().max() > 0


def test_statistics_lose_no_digits_where_the_mean_is_large(everything_is_large: None) -> None:
    x = 1000 + _noise(2, 8, 20, 7)
    variance, mean = torch.var_mean(x.double().unflatten(1, (4, 2)).flatten(2), 2, correction=0)
    found = strips.mean_and_variance(strips.split(x), 4)
    torch.testing.assert_close(found, (mean, variance), rtol=1e-5, atol=0)


def test_what_is_no_convolution_of_ours_is_called_as_it_is(everything_is_large: None) -> None:
    norm, x = GroupNorm(4, 8, silu=True), _noise(1, 8, 9, 9)
    with torch.no_grad():
        assert torch.equal(convolved(x, norm, nn.Identity()), norm(x))
        assert torch.equal(convolved(x, nn.Identity(), nn.Identity()), x)
