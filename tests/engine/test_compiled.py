"""The compiled engine draws what the eager one does."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from unet_twins import SD1, inputs

from ldm.denoiser import NetworkDenoiser
from ldm.engine import compiled
from ldm.engine.compiled import CompiledEngine
from ldm.networks.unet import UNet
from ldm.process import DiscreteVP

SMALL = {"widths": (8, 16), "transformer_layers": (1, 0), "num_heads": (1, 2), "blocks_per_level": 1}


@pytest.mark.slow
def test_it_draws_what_the_eager_engine_draws_also_after_the_weights_changed(monkeypatch):
    # Without the code generator, which takes minutes and is tested with training.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(compiled, "require_compiler", lambda setting: None)
    torch.manual_seed(0)
    config = replace(SD1, **SMALL)
    network, x, conditioning = UNet(config).requires_grad_(False).eval(), *inputs(config)[::2]
    eager = NetworkDenoiser(network, DiscreteVP(), "epsilon", conditioning)
    before = eager(x, 500.0).eps
    engine = CompiledEngine()
    denoise = NetworkDenoiser(network, DiscreteVP(), "epsilon", conditioning, engine=engine)
    torch.testing.assert_close(denoise(x, 500.0).eps, before, atol=1e-5, rtol=1e-5)
    forwards = [block.forward for block in network.repeated_blocks]
    assert engine.network(network) is network
    assert [block.forward for block in network.repeated_blocks] == forwards  # compiled once
    network.conv_in.weight.mul_(1.5)
    network.mid_block.resnets[0].conv1.weight.mul_(1.5)
    engine.weights_changed()
    twin = UNet(config).requires_grad_(False)
    twin.load_state_dict(network.state_dict())
    expected = NetworkDenoiser(twin, DiscreteVP(), "epsilon", conditioning)(x, 500.0).eps
    torch.testing.assert_close(denoise(x, 500.0).eps, expected, atol=1e-5, rtol=1e-5)
    assert (expected - before).abs().max() > 1e-3
