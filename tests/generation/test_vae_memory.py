"""Which pictures an autoencoder takes whole, and tiles that need no more than they may."""

from itertools import pairwise

import pytest
import torch

from autoencoder.config import AutoencoderConfig
from autoencoder.kl import KLAutoencoder
from autoencoder.tiles import Tiling
from ldm.generation.vae_memory import VAE_MEMORY, VaeMemory

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SEAMLESS = (True, False)


def stable_diffusion(dtype: torch.dtype = torch.float32) -> KLAutoencoder:
    config = AutoencoderConfig(widths=(128, 256, 512, 512), blocks_per_level=2, mid_attention=True, quant_conv=True)
    with torch.device("meta"):
        return KLAutoencoder(config).to(dtype)


@pytest.mark.parametrize(
    ("size", "device", "wraps", "dtype", "whole"),
    [
        (1024, CPU, (False, False), torch.float32, True),
        (1024, GPU, (False, False), torch.float32, True),
        (2048, CPU, (False, False), torch.float32, True),
        (2048, CPU, (False, False), torch.bfloat16, True),
        (2048, CPU, SEAMLESS, torch.float32, False),
        (2048, GPU, (False, False), torch.float32, False),
        (4096, CPU, (False, False), torch.bfloat16, False),
    ],
)
def test_what_is_decoded_whole(
    size: int, device: torch.device, wraps: tuple[bool, bool], dtype: torch.dtype, whole: bool
) -> None:
    vae = VaeMemory(stable_diffusion(dtype), 8, device, wraps)
    tiling = vae.tiling((size // 8, size // 8), VAE_MEMORY)
    assert (tiling is None) is whole
    assert tiling is None or (tiling.size < size // 8 and tiling.wraps == wraps)


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("gigabytes", [0.02, 0.1, 0.3, 1.0, 3.0])
def test_a_tile_takes_what_it_may_and_no_more(gigabytes: float, device: torch.device) -> None:
    """2.4 times its finest maps, or 1.4 times where these are computed in strips, from 32 MiB on."""
    tiling = VaeMemory(stable_diffusion(), 8, device).tiling((512, 512), gigabytes)
    assert tiling is not None
    pixels = (8 * tiling.size) ** 2
    in_strips = device is CPU and pixels * 128 * 4 >= 2**25
    taken = (1.4 if in_strips else 2.4) * pixels * (128 + 256) * 4 / 1e9
    assert tiling.size == 16 or taken <= gigabytes


@pytest.mark.parametrize("wraps", [(False, False), SEAMLESS])
@pytest.mark.parametrize("cells", [(512, 512), (130, 700), (257, 40)])
@pytest.mark.parametrize("gigabytes", [0.1, 0.5, 1.0, 2.0])
def test_tiles_are_as_few_as_fit_and_overlap_by_no_more_than_they_need(
    gigabytes: float, cells: tuple[int, int], wraps: tuple[bool, bool]
) -> None:
    tiling = VaeMemory(stable_diffusion(), 8, GPU, wraps).tiling(cells, gigabytes)
    assert tiling is not None
    most = int((gigabytes * 1e9 / (2.4 * 384 * 4)) ** 0.5) // 8
    assert tiling.size <= most and tiling.overlap == min(most // 4, 16)
    largest = Tiling(most, tiling.overlap, wraps)
    assert len(tiling.tiles(*cells)) == len(largest.tiles(*cells))
    one_less = Tiling(tiling.size - 1, tiling.overlap, wraps)
    assert len(one_less.tiles(*cells)) > len(tiling.tiles(*cells))


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("cells", [(512, 512), (256, 300), (40, 40)])
def test_less_memory_makes_tiles_of_half_the_side_down_to_the_smallest(
    cells: tuple[int, int], device: torch.device
) -> None:
    vae, gigabytes = VaeMemory(stable_diffusion(), 8, device), 100.0
    sides = []
    while smaller := vae.smaller(cells, gigabytes):
        assert smaller < gigabytes
        gigabytes = smaller
        tiling = vae.tiling(cells, gigabytes)
        assert tiling is not None
        sides.append(tiling.size)
    assert sides[-1] == 16
    assert all(after <= max(before // 2, 16) for before, after in pairwise(sides))
