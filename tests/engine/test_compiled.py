"""The compiled engine draws what the eager one does."""

import os
from dataclasses import replace
from functools import partial

import pytest
import torch
from unet_twins import SD1, inputs

from ldm.denoiser import NetworkDenoiser
from ldm.engine import compiled
from ldm.engine.compiled import CompiledEngine, compile_blocks
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
    assert engine.network(network) is engine.network(network)
    assert [block.forward for block in network.repeated_blocks] == forwards  # compiled once
    network.conv_in.weight.mul_(1.5)
    network.mid_block.resnets[0].conv1.weight.mul_(1.5)
    engine.weights_changed()
    twin = UNet(config).requires_grad_(False)
    twin.load_state_dict(network.state_dict())
    expected = NetworkDenoiser(twin, DiscreteVP(), "epsilon", conditioning)(x, 500.0).eps
    torch.testing.assert_close(denoise(x, 500.0).eps, expected, atol=1e-5, rtol=1e-5)
    assert (expected - before).abs().max() > 1e-3


def test_a_failed_compilation_is_a_line_and_the_network_runs_as_it_is_written(monkeypatch, caplog):
    def broken(graph, inputs):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    monkeypatch.setattr(compiled, "require_compiler", lambda setting: None)
    torch.manual_seed(0)
    config = replace(SD1, **SMALL)
    network, inputs_of_step = UNet(config).requires_grad_(False).eval(), inputs(config)
    expected = network(*inputs_of_step)
    run = CompiledEngine().network(network)
    for _ in range(2):
        assert torch.equal(run(*inputs_of_step), expected)
    (line,) = [record.getMessage() for record in caplog.records if record.name == compiled.__name__]
    assert "the compiled engine failed" in line
    assert "no such instruction" in line
    assert line.endswith("; using eager")
    assert not any("forward" in vars(block) for block in network.repeated_blocks)


def test_compiled_code_is_kept_in_the_cache_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "own")
    compile_blocks([])
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "own"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    compile_blocks([])
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "ldm" / "compiled")
