"""What is predicted tile by tile is what is predicted at once, wherever a network allows that to be said."""

import random
from collections.abc import Callable

import pytest
import torch
from listener import PROCESSES, PROMPT, Listener, identical, same
from torch import Tensor
from torch.nn import functional as F
from unet_twins import SD1, inputs

from autoencoder.tiles import Tiling
from conditioning.bundle import Conditioning
from ldm.denoiser import NetworkDenoiser
from ldm.guidance import GuidanceSettings, Region, Regions, TiledDenoiser, guide
from ldm.networks.options import NetworkOptions
from ldm.networks.unet import UNet
from ldm.noise import NoiseSource
from ldm.process import DiscreteVP
from ldm.samplers import SAMPLERS


def maps(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["sample", "epsilon", "v_prediction", "flow"])
@pytest.mark.parametrize("jitter", [False, True])
def test_identity_and_affine_denoisers_come_back(kind: str, jitter: bool) -> None:
    lot = random.Random(1)
    networks: list[Callable[..., Tensor]] = [lambda x, t, c: x, lambda x, t, c: 0.3 * x - 0.7]
    for _ in range(12):
        size = lot.randint(8, 80)
        tiling, x = Tiling(size, lot.randint(0, size - 4)), maps(lot.randint(8, 200), lot.randint(8, 200))
        for network in networks:
            whole = NetworkDenoiser(network, DiscreteVP(), kind)
            same(TiledDenoiser(whole, tiling, jitter)(x, 600.0), whole(x, 600.0), 1e-6)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_tile_as_large_as_the_picture_changes_no_bit(name: str) -> None:
    network, x = Listener().requires_grad_(False), maps(6, 9)
    whole = NetworkDenoiser(network, PROCESSES[name], "v_prediction", PROMPT)
    t = PROCESSES[name].time_of_index(700.0).item()
    for size in (9, 10, 1000):
        assert identical(TiledDenoiser(whole, Tiling(size, 2), jitter=True)(x, t), whole(x, t))


@pytest.mark.parametrize("name", PROCESSES)
def test_picture_and_noise_belong_together(name: str) -> None:
    process = PROCESSES[name]
    t, x = process.start, maps(20, 27)
    made = TiledDenoiser(NetworkDenoiser(Listener().eval(), process, "v_prediction", PROMPT), Tiling(8, 4))(x, t)
    torch.testing.assert_close(process.add_noise(made.x0, made.eps, t), x, rtol=1e-5, atol=1e-5)


def test_a_ramp_has_no_seam() -> None:
    """A network that sees 0 beyond the edges of what it is shown, as every convolution does, on a ramp of 0 to 1."""
    kernel = torch.full((1, 1, 3, 3), 1 / 9)
    ramp = torch.linspace(0, 1, 96).expand(1, 1, 96, 96)
    blur = NetworkDenoiser(lambda x, t, c: F.conv2d(x, kernel, padding=1), DiscreteVP(), "sample")
    made = TiledDenoiser(blur, Tiling(32, 8))(ramp, 500.0).x0[0, 0, 1:-1, 1:-1]
    assert (made - ramp[0, 0, 1:-1, 1:-1]).abs().max() < 1 / 255


def test_a_tile_has_its_part_of_the_channels_beside_the_latent() -> None:
    """Concat is the picture itself here, so a network that gives it back must give it back whole."""
    x, picture = maps(30, 41), maps(30, 41, channels=2)
    conditioning = Conditioning(concat=picture)
    whole = NetworkDenoiser(lambda x, t, c: x + c.concat.mean(1, keepdim=True), DiscreteVP(), "sample", conditioning)
    other = Conditioning(concat=-picture)
    made, wanted = (each.predict(x, 400.0, [None, other]) for each in (TiledDenoiser(whole, Tiling(16, 4)), whole))
    for one, another in zip(made, wanted, strict=True):
        same(one, another, 1e-5)


def test_regions_guidance_and_hooks_go_around_tiles() -> None:
    """A pointwise network cannot tell tiles from the whole, so neither can anything that is put around it."""
    network = Listener(kernel=1).requires_grad_(False)
    whole = NetworkDenoiser(network, DiscreteVP(), "epsilon", PROMPT)
    left = torch.zeros(24, 24).index_fill(1, torch.arange(10), 1.0)
    negative = Conditioning(pooled=-PROMPT.pooled)
    settings = GuidanceSettings(guidance_scale=4.0, guidance_rescale=0.6)
    sources = (whole, TiledDenoiser(whole, Tiling(8, 2)))
    at_once, in_tiles = (guide(Regions(each, [Region(negative, left)]), negative, settings) for each in sources)
    x = maps(24, 24)
    same(in_tiles(x, 500.0), at_once(x, 500.0), 1e-5)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "heun", "unipc", "euler_ancestral"])
def test_samplers_do_not_see_tiles(sampler: str) -> None:
    process, grid = DiscreteVP(), torch.tensor([900.0, 600.0, 300.0, 100.0, -1.0])
    whole = NetworkDenoiser(lambda x, t, c: 0.3 * x, process, "epsilon")
    ends = []
    for denoise in (whole, TiledDenoiser(whole, Tiling(16, 5), jitter=True)):
        noise = NoiseSource([0, 1], (3, 40, 33), torch.device("cpu"))
        ends.append([step.x for step in SAMPLERS[sampler](denoise, noise(), grid, noise)][-1])
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-5)


def test_jitter_moves_the_tiles_from_step_to_step_and_not_from_run_to_run() -> None:
    whole = NetworkDenoiser(Listener().requires_grad_(False), DiscreteVP(), "epsilon", PROMPT)
    x, tiling = maps(30, 30), Tiling(12, 3)
    still, moved = TiledDenoiser(whole, tiling), TiledDenoiser(whole, tiling, jitter=True)
    assert identical(moved(x, 500.0), TiledDenoiser(whole, tiling, jitter=True)(x, 500.0))
    assert not identical(moved(x, 500.0), still(x, 500.0))


def test_attention_is_changed_in_the_tiles_size() -> None:
    """SEG blurs queries on the grid of tokens: it must be the tile's, not the picture's."""
    network, (x, _, conditioning) = UNet(SD1).eval().requires_grad_(False), inputs(SD1, (24, 24))
    whole = NetworkDenoiser(network, DiscreteVP(), "epsilon", conditioning)
    settings = GuidanceSettings(guidance_scale=1.0, seg_scale=2.0, seg_blur_sigma=1.0)
    made = guide(TiledDenoiser(whole, Tiling(16, 8)), conditioning, settings)(x, 500.0)
    assert torch.isfinite(made.x0).all()


def test_a_side_network_is_refused_beside_tiles() -> None:
    whole = NetworkDenoiser(lambda x, t, c: x, DiscreteVP(), "sample")
    with pytest.raises(ValueError, match="draw without tiles"):
        TiledDenoiser(whole, Tiling(4, 1)).predict(maps(8, 8), 5.0, [None], [NetworkOptions(object())])  # type: ignore[list-item]
