"""The tiny Stable Diffusion under every process, and pictures to put in."""

from dataclasses import replace

import numpy as np
import torch

from ldm import LatentDiffusion
from ldm.process import EDM, DiscreteVP, Flow, Process

PROCESSES: dict[str, tuple[Process, str]] = {
    "discrete": (DiscreteVP(), "epsilon"),
    "zero_snr": (DiscreteVP(zero_terminal_snr=True), "v_prediction"),
    "flow": (Flow(), "flow"),
    "edm": (EDM(), "sample"),
}


def under(model: LatentDiffusion, process: str) -> LatentDiffusion:
    """The same networks under another process, as if they had been trained for it."""
    kind, prediction = PROCESSES[process]
    defaults = replace(model.parts.defaults, schedule="trailing", sampler="ddim", schedule_options={})
    return LatentDiffusion(replace(model.parts, process=kind, prediction_type=prediction, defaults=defaults))


def picture(height: int = 32, width: int = 32, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Noise of 8 bits: no two bytes agree by accident."""
    return np.random.default_rng(seed).integers(0, 255, (height, width, channels), np.uint8, endpoint=True)


class Counting:
    """Counts the calls of a network."""

    def __init__(self, network, monkeypatch) -> None:
        self.calls, forward = 0, type(network).forward

        def counted(this, *args, **kwargs):
            self.calls += 1
            return forward(this, *args, **kwargs)

        monkeypatch.setattr(type(network), "forward", counted)


def take_the_mean(vae) -> None:
    """Let diffusers' autoencoder draw from a posterior without width, as its mean is what is encoded here."""
    latent = vae.config.latent_channels
    with torch.no_grad():
        vae.quant_conv.weight[latent:] = 0
        vae.quant_conv.bias[latent:] = -60


def seeded(draws: int, shape: tuple[int, ...] = (1, 4, 8, 8)) -> torch.Generator:
    """A generator of which so much noise was drawn already: diffusers draws its posteriors first."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(draws):
        torch.randn(shape, generator=generator)
    return generator
