"""An autoencoder in tiles gives what it gives at once, nearly: at 45 dB and without a seam."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT
from PIL import Image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from autoencoder.config import AutoencoderConfig
from autoencoder.kernels import GroupNorm
from autoencoder.kl import KLAutoencoder
from autoencoder.tiled import _Measured, decode_in_tiles, encode_in_tiles
from autoencoder.tiles import Tiling
from autoencoder.tiny import TinyAutoencoder
from ldm import LatentDiffusion


def decode(network, z: Tensor) -> Tensor:
    return network.decode(z)


def decibels(one: Tensor, other: Tensor, span: float = 2.0) -> float:
    return -10 * math.log10(((one - other) / span).square().mean().item())


@pytest.fixture(scope="module")
def shipped() -> LatentDiffusion:
    return LatentDiffusion.from_pretrained("emoji", device="cpu")


@pytest.fixture(scope="module")
def picture() -> Tensor:
    """(1, 3, 624, 768) in [0, 1]: drawings on white."""
    pixels = np.array(Image.open(ROOT / "docs" / "pictures" / "emoji.png").convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None, :, :624, :768].float() / 255


class OneNorm(nn.Module):
    """Nothing but a group norm between two pointwise layers: tiles have all that it needs but its statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.norm, self.out = nn.Conv2d(4, 8, 1), GroupNorm(2, 8, silu=True), nn.Conv2d(8, 3, 1)

    def decode(self, z: Tensor) -> Tensor:
        return self.out(self.norm(self.into(z)))


class Fp32(TorchDispatchMode):
    """The most numbers of one tensor in fp32 that was made within it."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.dtype == torch.float32:
            self.most = max(self.most, made.numel())
        return made


def test_statistics_of_a_map_in_half_precision_take_no_copy_of_it_in_full() -> None:
    norm = _Measured(GroupNorm(4, 64).bfloat16())
    x = torch.randn(1, 64, 64, 32).bfloat16()
    norm.share = torch.rand(64, 32)
    with torch.no_grad(), Fp32() as made:
        norm(x)
    assert 0 < made.most <= x.numel() / 4
    grouped, share = x.double().unflatten(1, (4, 16))[0], norm.share.double()
    torch.testing.assert_close(norm.total, (grouped * share).sum((1, 2, 3)), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(norm.squares, (grouped.square() * share).sum((1, 2, 3)), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("wraps", [(False, False), (True, True)])
def test_a_norm_has_the_statistics_of_the_whole_picture(wraps: tuple[bool, bool]) -> None:
    torch.manual_seed(0)
    network = OneNorm().requires_grad_(False)
    z = torch.randn(2, 4, 50, 70) * torch.linspace(0.1, 3, 70) + torch.linspace(-4, 4, 50)[:, None]
    made = decode_in_tiles(network, z, Tiling(16, 4, wraps), 1, decode)  # type: ignore[arg-type]
    torch.testing.assert_close(made, network.decode(z), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_shipped_autoencoder_reaches_45_decibels_both_ways(shipped: LatentDiffusion, picture: Tensor) -> None:
    network = shipped.parts.autoencoder
    with torch.inference_mode():
        whole = network.encode(picture * 2 - 1)
        in_tiles = encode_in_tiles(network, picture * 2 - 1, Tiling(32, 8), 16)
        decoded, at_once = decode_in_tiles(network, whole.mean, Tiling(32, 8), 16, decode), network.decode(whole.mean)
        back = network.decode(in_tiles.mean)
    assert decibels(decoded, at_once) >= 45
    assert decibels(back, at_once) >= 45
    assert in_tiles.logvar.isfinite().all()


@pytest.mark.slow
def test_attention_in_the_middle_sees_the_whole_picture_both_ways(shipped: LatentDiffusion, picture: Tensor) -> None:
    """Trained weights, with an attention in the middle that puts the mean of all that it sees into every cell."""
    own = shipped.parts.autoencoder
    torch.manual_seed(0)
    network = KLAutoencoder(replace(own.config, mid_attention=True)).eval().requires_grad_(False)
    network.load_state_dict(own.state_dict(), strict=False)
    for coder in (network.encoder, network.decoder):
        attention = coder.mid_block.attentions[0]
        for layer, gain in ((attention.to_q, 0), (attention.to_v, 12), (attention.to_out[0], 12)):
            layer.weight.mul_(gain)
    with torch.inference_mode():
        whole = network.encode(picture * 2 - 1)
        at_once = network.decode(whole.mean)
        decoded = decode_in_tiles(network, whole.mean, Tiling(32, 8), 16, decode)
        assert decibels(decoded, at_once) >= 45
        encoded = encode_in_tiles(network, picture * 2 - 1, Tiling(32, 8), 16)
        assert decibels(network.decode(encoded.mean), at_once) >= 45


def test_the_middle_alone_is_exact_whatever_the_tiles() -> None:
    """A decoder whose upper part is pointwise gives in tiles what it gives at once, to rounding."""
    torch.manual_seed(1)
    network = KLAutoencoder(AutoencoderConfig(widths=(8,), norm_groups=4, blocks_per_level=1)).eval()
    network.requires_grad_(False)
    network.decoder.up_blocks = nn.ModuleList()
    network.decoder.conv_norm_out, network.decoder.conv_out = nn.Identity(), nn.Conv2d(8, 3, 1)  # type: ignore[assignment]
    z = torch.randn(1, 4, 40, 50)
    with torch.inference_mode():
        torch.testing.assert_close(decode_in_tiles(network, z, Tiling(16, 4), 1, decode), network.decode(z))
        beyond = decode_in_tiles(network, torch.randn(1, 4, 40, 150), Tiling(16, 4), 1, decode)
    assert beyond.shape == (1, 3, 40, 150)  # more cells than the middle is run on at once: in tiles, too


def test_a_ramp_has_no_seam(shipped: LatentDiffusion) -> None:
    """Decoded in tiles it steps from column to column as at once, to less than a level of a byte."""
    ramp = torch.linspace(0, 1, 768).expand(1, 3, 640, 768)
    with torch.inference_mode():
        z = shipped.encode(ramp)
        whole = shipped.decode(z)
        in_tiles = LatentDiffusion.decode(tiled(shipped, 0.08), z)
    assert not torch.equal(whole, in_tiles)
    inside = slice(16, -16)  # without the outermost cells, which are no seam
    steps, wanted = (each.mean((1, 2))[..., inside].diff() for each in (in_tiles, whole))
    assert (steps - wanted).abs().max() < 1 / 255
    assert decibels(in_tiles, whole, 1.0) >= 40


def tiled(model: LatentDiffusion, gigabytes: float) -> LatentDiffusion:
    view = LatentDiffusion(model.parts)
    view.vae_memory = gigabytes
    return view


def test_taesd_needs_no_second_pass() -> None:
    torch.manual_seed(0)
    network = TinyAutoencoder(AutoencoderConfig(widths=(8, 8, 8, 8), norm_groups=4)).eval().requires_grad_(False)
    z, seen = torch.randn(1, 4, 40, 70), 0

    def counted(network: TinyAutoencoder, z: Tensor) -> Tensor:
        nonlocal seen
        seen += 1
        return network.decode(z)

    tiling = Tiling(32, 8)
    made = decode_in_tiles(network, z, tiling, 8, counted)  # type: ignore[arg-type]
    assert seen == len(tiling.tiles(40, 70))
    assert decibels(made, network.decode(z)) >= 45
    encoded = encode_in_tiles(network, made, tiling, 8)  # type: ignore[arg-type]
    assert torch.isneginf(encoded.logvar).all()
    assert torch.equal(encoded.sample(torch.ones_like(encoded.mean)), encoded.mean)


def test_a_picture_does_not_depend_on_the_others_of_its_batch() -> None:
    torch.manual_seed(0)
    network = KLAutoencoder(AutoencoderConfig(widths=(8, 8), norm_groups=4, blocks_per_level=1)).requires_grad_(False)
    z = torch.randn(2, 4, 20, 30)
    both = decode_in_tiles(network, z, Tiling(16, 4), 2, decode)
    assert torch.equal(both[1:], decode_in_tiles(network, z[1:], Tiling(16, 4), 2, decode))


PEAK = """
import resource, sys, torch
sys.path.insert(0, {root!r})
from autoencoder.kernels import GroupNorm
from autoencoder.tiled import decode_in_tiles
from autoencoder.tiles import Tiling

class Decoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = GroupNorm(8, 288, silu=True)

    def decode(self, z):
        x = torch.nn.functional.interpolate(z, scale_factor=8.0).repeat(1, 72, 1, 1)
        return self.norm(x)[:, :3]

torch.set_num_threads(1)
with torch.inference_mode():
    network, z = Decoder(), torch.randn(1, 4, {side} // 8, {side} // 8)
    if {side} > 512:
        decode_in_tiles(network, z, Tiling(64, 8), 8, lambda network, z: network.decode(z))
    else:
        network.decode(z)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_the_peak_of_a_picture_in_tiles_is_nearly_that_of_one_tile(tmp_path: Path) -> None:
    """Of a decoder that takes as much a pixel as Stable Diffusion's, and has none of its arithmetic."""
    peaks = []
    for side in (512, 2048):
        script = PEAK.format(root=str(ROOT), side=side)
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
        peaks.append(int(run.stdout))
    assert peaks[1] <= 1.25 * peaks[0], peaks  # the picture itself comes on top
