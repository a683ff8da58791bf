"""Seeds: image i of a batch with seed s is the single image with seed s + i, for every sampler, with the real U-Net."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from conditioning.bundle import Conditioning
from ldm.denoiser import NetworkDenoiser
from ldm.guidance import ClassifierFreeGuidance
from ldm.networks.unet import UNet, UNetConfig
from ldm.noise import NoiseSource
from ldm.process import EDM, DiscreteVP, Flow, Process
from ldm.samplers import SAMPLERS
from ldm.samplers.table import SAMPLER_TABLE
from ldm.schedules import trailing

SHAPE = (4, 8, 8)
SEEDS = [7, 8, 9]
PROCESSES: dict[str, tuple[Process, str]] = {
    "vp": (DiscreteVP(), "epsilon"),
    "vp_zero_snr": (DiscreteVP(zero_terminal_snr=True), "v_prediction"),
    "flow": (Flow(shift=3.0), "flow"),
    "edm": (EDM(), "v_prediction"),
}


class Recorder:
    """A noise source that keeps a copy of all that it gave."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.source = NoiseSource(seeds, SHAPE)
        self.given: list[Tensor] = []

    def __call__(self) -> Tensor:
        self.given.append(self.source())
        return self.given[-1]

    def between(self, start: float, end: float) -> Tensor:
        self.given.append(self.source.between(start, end))
        return self.given[-1]


@pytest.fixture(scope="module")
def unet() -> UNet:
    """A small U-Net of the real class whose output depends on picture, time and tokens."""
    torch.manual_seed(0)
    config = UNetConfig(
        widths=(8, 16),
        blocks_per_level=1,
        transformer_layers=(1, 0),
        num_heads=(2, 2),
        context_dim=12,
        norm_groups=4,
    )
    model = UNet(config).eval().requires_grad_(False)
    model.conv_out.weight.mul_(3)
    return model


def draw(unet: UNet, name: str, process: Process, kind: str, which: slice) -> tuple[Tensor, list[Tensor]]:
    """Pictures of some of the three seeds, each under its own prompt and CFG, and the noise that went into them."""
    generator = torch.Generator().manual_seed(1)
    prompts, negative = (Conditioning(tokens=torch.randn(n, 5, 12, generator=generator)) for n in (3, 1))
    noise = Recorder(SEEDS[which])
    grid = trailing(process, 5)
    guided = ClassifierFreeGuidance(NetworkDenoiser(unet, process, kind, prompts[which]), negative, 3.0)
    *_, end = SAMPLERS[name](guided, process.initial(noise(), grid[0]), grid, noise)
    return end.x, noise.given


@pytest.mark.parametrize(("process", "kind"), PROCESSES.values(), ids=PROCESSES.keys())
@pytest.mark.parametrize("name", SAMPLERS)
def test_image_of_a_batch_is_the_image_of_its_seed(unet: UNet, name: str, process: Process, kind: str):
    batch, noise = draw(unet, name, process, kind, slice(0, 3))
    assert torch.isfinite(batch).all() and (batch[0] - batch[1]).abs().max() > 0.1
    for i in range(3):
        alone, own = draw(unet, name, process, kind, slice(i, i + 1))
        assert len(own) == len(noise) and all(
            torch.equal(mine, all_of_it[i : i + 1]) for mine, all_of_it in zip(own, noise, strict=True)
        )
        torch.testing.assert_close(batch[i : i + 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_draws_noise_if_it_is_said_to_be_stochastic(unet: UNet, name: str):
    _, noise = draw(unet, name, *PROCESSES["vp"], slice(0, 1))
    assert (len(noise) > 1) is SAMPLER_TABLE[name].stochastic


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_seed_draws_the_same_bytes_again(unet: UNet, name: str):
    first, second = (draw(unet, name, *PROCESSES["vp_zero_snr"], slice(0, 2))[0] for _ in range(2))
    assert torch.equal(first, second)
