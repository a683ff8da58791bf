"""Very large maps: the same numbers up to rounding, from fewer maps."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from full_maps import FullMaps
from torch import Tensor, nn

from autoencoder import large_maps
from autoencoder.blocks import Attention, Downsample, ResnetBlock, Upsample
from autoencoder.config import AutoencoderConfig
from autoencoder.kernels import strips
from autoencoder.kl import KLAutoencoder
from autoencoder.large_maps import in_turn
from autoencoder.seamless import seamless
from autoencoder.tiled import decode_in_tiles
from autoencoder.tiles import Tiling
from ldm.engine.onednn import packed_dtypes
from ldm.engine.packed import PackedEngine

PACKED = pytest.param("packed", marks=pytest.mark.skipif(not packed_dtypes(), reason="this PyTorch has no oneDNN"))
LAYOUTS = [torch.contiguous_format, torch.channels_last]
LEVELS = {
    "upwards": lambda: [ResnetBlock(8, 8, 4), Upsample(8), ResnetBlock(8, 4, 2), ResnetBlock(4, 4, 2)],
    "of one width": lambda: [Upsample(8), ResnetBlock(8, 8, 4), Upsample(8), ResnetBlock(8, 8, 2)],
    "with attention": lambda: [Upsample(8), ResnetBlock(8, 8, 4), Attention(8, 2), ResnetBlock(8, 8, 2)],
    "ending in a doubling": lambda: [ResnetBlock(8, 8, 4), Upsample(8)],
    "downwards": lambda: [nn.Conv2d(8, 4, 1), ResnetBlock(4, 4, 2), Downsample(4), ResnetBlock(4, 8, 2)],
}


@contextmanager
def everything_is_very_large() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "LARGE", 0)
        patch.setattr(strips, "_STRIP", 1)
        patch.setattr(strips, "_LEAST_ROWS", 4)
        patch.setattr(large_maps, "VERY_LARGE", 0)
        yield


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _level(name: str, seed: int = 0) -> nn.ModuleList:
    torch.manual_seed(seed)
    layers = nn.ModuleList(LEVELS[name]())
    for layer in layers.modules():
        if isinstance(layer, nn.GroupNorm):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return layers.requires_grad_(False)


@torch.inference_mode()
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("height", [4, 10, 14])
@pytest.mark.parametrize("name", LEVELS)
def test_layers_in_turn_give_what_they_give_one_by_one(
    name: str, height: int, dtype: torch.dtype, tolerance: float, layout: torch.memory_format
) -> None:
    x = _noise(2, 8, height, 6).to(dtype, memory_format=layout)
    layers = _level(name).to(dtype)
    whole = x
    for layer in layers:
        whole = layer(whole)
    before = x.clone()
    with everything_is_very_large():
        found = in_turn([*layers], x)
    torch.testing.assert_close(found, whole, rtol=tolerance, atol=tolerance * float(whole.abs().max()))
    assert torch.equal(x, before), "whose it is may need it"


@torch.inference_mode()
@pytest.mark.parametrize(
    ("layers", "maps"),
    [
        ([Upsample(8), ResnetBlock(8, 8, 4)], 1),
        ([Upsample(8), ResnetBlock(8, 8, 4), ResnetBlock(8, 8, 4), ResnetBlock(8, 8, 4)], 1),
    ],
    ids=["doubled", "level"],
)
def test_a_level_makes_one_map_of_its_size(layers: list[nn.Module], maps: int) -> None:
    x = _noise(1, 8, 32, 32)
    with everything_is_very_large(), FullMaps(4 * x.numel()) as made:
        in_turn(layers, x)
    assert made.count == maps


@torch.inference_mode()
def test_maps_that_are_not_very_large_are_not_computed_twice() -> None:
    layers, x = _level("upwards"), _noise(1, 8, 8, 8)
    calls: list[int] = []
    layers[-1].conv1.register_forward_hook(lambda *_: calls.append(1))
    in_turn([*layers], x)
    assert len(calls) == 1
    with everything_is_very_large():
        in_turn([*layers], x)
    assert len(calls) > 2


def _autoencoder() -> KLAutoencoder:
    torch.manual_seed(0)
    config = AutoencoderConfig(widths=(8, 16), norm_groups=4, blocks_per_level=1, mid_attention=True)
    return KLAutoencoder(config).eval().requires_grad_(False)


@torch.inference_mode()
@pytest.mark.parametrize("way", ["encode", "decode", "tiles", "seamless", PACKED])
def test_pictures_are_the_same(way: str) -> None:
    autoencoder, z, x = _autoencoder(), _noise(2, 4, 20, 24), _noise(2, 3, 40, 48)
    if way == "packed":
        autoencoder = PackedEngine().view(autoencoder)
    if way == "seamless":
        autoencoder = seamless(autoencoder, (True, True))

    def run() -> Tensor:
        if way == "encode":
            return autoencoder.encode(x).mean
        if way == "tiles":
            return decode_in_tiles(autoencoder, z, Tiling(8, 2), 2, lambda network, part: network.decode(part))
        return autoencoder.decode(z)

    whole = run()
    with everything_is_very_large():
        torch.testing.assert_close(run(), whole, rtol=1e-4, atol=1e-5)
