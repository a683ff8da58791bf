"""When an engine prepares a network anew, and what it leaves to eager or to the drawing.

Most of it is by ONNX Runtime: the code is the same for all engines with sessions.
"""

import threading
from dataclasses import replace

import pytest
import torch
from engines import BOTH, ONNX, SMALL, check, close, engine, inputs_of, lines, network
from torch import Tensor, nn

from ldm.denoiser import NetworkDenoiser
from ldm.engine import graph
from ldm.networks.feature_cache import CacheSettings, FeatureCache
from ldm.networks.options import NetworkOptions, Residuals
from ldm.process import DiscreteVP

pytestmark = pytest.mark.usefixtures("drawing")


@BOTH
def test_changed_weights_are_noticed(name, exports, caplog):
    unet, made = network(), engine(name)
    run = made.network(unet)
    check(run, unet)
    before = run(*inputs_of(SMALL))
    with torch.inference_mode(False):
        unet.mid_block.resnets[0].conv1.weight.mul_(1.5)
        unet.conv_in.weight = nn.Parameter(unet.conv_in.weight * 1.5, requires_grad=False)
    check(run, unet)
    assert (run(*inputs_of(SMALL)) - before).abs().max() > 1e-3
    unet.conv_out = network(seed=1).conv_out
    check(made.network(unet), unet)
    assert len(exports) <= 1
    assert not lines(caplog)


@ONNX
def test_weights_without_a_version_are_given_anew_by_weights_changed(name):
    unet, made = network(), engine(name)
    for parameter in unet.parameters():
        parameter.data = parameter.data.clone()  # made in inference mode, which counts no versions
    run = made.network(unet)
    check(run, unet)
    unet.conv_out.weight.mul_(1.5)
    made.weights_changed()
    check(run, unet)


@ONNX
def test_what_it_cannot_do_is_refused_or_runs_eagerly_by_name(name, caplog):
    unet, made = network(), engine(name)
    x, time, conditioning = inputs_of(SMALL)
    denoise = NetworkDenoiser(unet, DiscreteVP(), "epsilon", conditioning, engine=made)
    with pytest.raises(ValueError, match=f"the {name} engine takes none, use eager"):
        denoise.predict(x, 500.0, [None], [NetworkOptions(hook=lambda layer, q, k, v, mask: v)])
    residuals = Residuals((), torch.zeros(1))
    with pytest.raises(ValueError, match=f"the {name} engine takes none, use eager"):
        denoise.predict(x, 500.0, [None], [NetworkOptions(residuals)])
    run = made.network(unet)
    cache = FeatureCache(CacheSettings(deepcache=2))
    for _ in range(2):
        out = run(x, time, conditioning, NetworkOptions(reuse=cache.call([(conditioning,)], 500.0)))
    assert torch.equal(out, unet(x, time, conditioning)) and cache.deep_runs == 1
    assert lines(caplog) == [f"the {name} engine takes no feature caches; using eager"]


@ONNX
def test_gradients_are_computed_eagerly(name, caplog):
    unet = network()
    with torch.inference_mode(False), torch.enable_grad():
        x, time, conditioning = inputs_of(SMALL)
        engine(name).network(unet)(x.requires_grad_(), time, conditioning).sum().backward()
        ours, x.grad = x.grad, None
        unet(x, time, conditioning).sum().backward()
    assert torch.equal(ours, x.grad)
    assert lines(caplog) == [f"the {name} engine gives no gradients; using eager"]


@ONNX
def test_memory_that_runs_out_is_left_to_the_drawing_which_goes_on_in_a_smaller_way(name, monkeypatch, caplog):
    unet, made = network(), engine(name)

    def short(inputs: dict[str, Tensor]) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(made, "converted", lambda *given: short)
    with pytest.raises(MemoryError):
        made.network(unet)(*inputs_of(SMALL))
    assert not lines(caplog)


@ONNX
def test_a_failure_is_a_line_and_the_network_runs_as_it_is_written(name, monkeypatch, caplog):
    def broken(*given):
        raise RuntimeError("no such\noperator")

    monkeypatch.setattr(graph, "export", broken)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    unet = network(replace(SMALL, widths=(24, 24)))
    run = engine(name).network(unet)
    for _ in range(2):
        assert torch.equal(run(*inputs_of(SMALL)), unet(*inputs_of(SMALL)))
    assert lines(caplog)[-1] == f"the {name} engine failed (no such operator); using eager"
    assert len([line for line in lines(caplog) if "using eager" in line]) == 1


@ONNX
def test_a_network_without_what_it_needs_says_so_as_ever(name, caplog):
    (x, time, conditioning), unet = inputs_of(SMALL), network()
    run = engine(name).network(unet)
    with pytest.raises(ValueError, match=r"conditioning\.tokens is missing"):
        run(x, time)
    close(run(x, time, conditioning), unet(x, time, conditioning))
    assert not lines(caplog)


@BOTH
def test_threads_may_share_it(name):
    unet, made = network(), engine(name)
    given = [inputs_of(SMALL, batch=batch) for batch in (1, 2)]
    expected, found = [unet(*each) for each in given], {}

    @torch.inference_mode()
    def draw(k: int) -> None:
        run = made.network(unet)
        found[k] = [run(*given[k % 2]) for _ in range(5)]

    threads = [threading.Thread(target=draw, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, outputs in found.items():
        for output in outputs:
            close(output, expected[k % 2])
    assert len(found) == 4


@ONNX
def test_a_network_is_forgotten_with_its_model(name):
    unet, made = network(), engine(name)
    check(made.network(unet), unet)
    assert made.network(unet) is made.network(unet)
    assert len(made._networks) == 1
    del unet
    assert len(made._networks) == 0
