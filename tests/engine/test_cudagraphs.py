"""CUDA graphs: what they read, when they are recorded anew, and what is said where they cannot be.

The recording itself needs a GPU (`tests/gpu`). Here operators are recorded with the memory that they read.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from engines import CPU, SMALL, check_adapters, lines, network
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from unet_twins import inputs

from ldm.engine import cudagraphs
from ldm.engine.choose import engine_for
from ldm.engine.cudagraphs import CudaGraphsEngine
from ldm.networks.attention import set_attention
from ldm.networks.feature_cache import CacheSettings, FeatureCache
from ldm.networks.options import NetworkOptions


class Recording(TorchDispatchMode):
    """Every operator with the very tensors that it was given, as a graph of a GPU has their addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> Callable[[Tensor], Tensor]:
        """Runs all of it again; returns what has become of a tensor that it made."""
        made: dict[int, object] = {}
        now = lambda value: made.get(id(value), value)  # noqa: E731
        for func, args, kwargs, out in self.calls:
            again = func(*tree_map(now, args), **tree_map(now, kwargs))
            made |= zip(map(id, tree_flatten(out)[0]), tree_flatten(again)[0], strict=True)
        return now


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    """All recordings, in order. The GPU is a CPU here."""
    made: list[Recording] = []

    def record(step: Callable[[], Tensor], device: torch.device, shared: object) -> tuple[Callable, Tensor]:
        with Recording() as recording:
            output = step()
        made.append(recording)
        target = output.detach().clone()
        return lambda: target.copy_(recording.replay()(output)), target

    monkeypatch.setattr(cudagraphs, "record", record)
    monkeypatch.setattr(cudagraphs, "_DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return made


def inputs_of(size: tuple[int, int] = (8, 8), batch: int = 2, seed: int = 1):
    x, time, conditioning = inputs(SMALL, size, batch)
    change = torch.Generator().manual_seed(seed)
    tokens = torch.randn(conditioning.tokens.shape, generator=change)
    return torch.randn(x.shape, generator=change), time + seed, replace(conditioning, tokens=tokens)


def check(run, unet: nn.Module, **given) -> Tensor:
    with torch.no_grad():
        made = run(*inputs_of(**given))
        torch.testing.assert_close(made, unet(*inputs_of(**given)), atol=1e-5, rtol=1e-5)
    return made


def test_a_shape_is_recorded_once_and_every_input_arrives(recorded, caplog) -> None:
    unet = network()
    run = CudaGraphsEngine().network(unet)
    first = check(run, unet)
    kept = first.clone()
    for seed in (2, 3):
        check(run, unet, seed=seed)
    assert len(recorded) == 1 and torch.equal(first, kept)  # an output is not written over by the next call
    for given in ({"batch": 3}, {"size": (8, 16)}, {"batch": 3}, {}):
        check(run, unet, **given)
    assert len(recorded) == 3
    x, time, conditioning = inputs_of()
    masked = replace(conditioning, mask=torch.tensor([[True] * 5, [True, True, False, False, False]]))
    torch.testing.assert_close(run(x, time, masked), unet(x, time, masked), atol=1e-5, rtol=1e-5)
    assert len(recorded) == 4 and not lines(caplog)


def test_the_last_four_are_kept(recorded) -> None:
    unet = network()
    run = CudaGraphsEngine().network(unet)
    for batch in (1, 2, 3, 4, 5):
        check(run, unet, batch=batch)
    check(run, unet, batch=2)
    assert len(recorded) == 5
    check(run, unet, batch=1)
    assert len(recorded) == 6


def test_graphs_go_with_the_weights_and_attention_that_they_read(recorded, caplog) -> None:
    unet, engine = network(), CudaGraphsEngine()
    changes = [
        lambda: unet.conv_in.weight.mul_(1.5),
        lambda: setattr(unet.conv_in, "weight", nn.Parameter(unet.conv_in.weight * 1.5, requires_grad=False)),
        lambda: setattr(unet.conv_out.weight, "data", unet.conv_out.weight * 1.5),
        lambda: setattr(unet, "conv_out", network(seed=1).conv_out),
        lambda: set_attention(unet, "math"),
    ]
    check(engine.network(unet), unet)
    for count, change in enumerate(changes, 2):
        with torch.no_grad():
            change()
        for _ in range(2):
            check(engine.network(unet), unet)
        assert len(recorded) == count
    engine.weights_changed()
    check(engine.network(unet), unet)
    assert len(recorded) == len(changes) + 2 and not lines(caplog)


def test_adapters_come_and_go(recorded, tiny_folder, caplog) -> None:
    check_adapters("cudagraphs", tiny_folder)
    assert len(recorded) == 3 and not lines(caplog)


def test_recordings_serve_calls_with_and_without_inference_mode(recorded) -> None:
    unet = network()
    run = CudaGraphsEngine().network(unet)
    with torch.inference_mode():
        check(run, unet)
    check(run, unet, seed=2)
    with torch.inference_mode():
        check(run, unet, seed=3)
    assert len(recorded) == 1


def test_what_it_cannot_do_runs_eagerly_by_name(recorded, caplog) -> None:
    unet = network()
    run = CudaGraphsEngine().network(unet)
    x, time, conditioning = inputs_of()
    reuse = FeatureCache(CacheSettings(deepcache=2)).call([(conditioning,)], 500.0)
    assert torch.equal(run(x, time, conditioning, NetworkOptions(reuse=reuse)), unet(x, time, conditioning))
    with torch.enable_grad():
        run(x.requires_grad_(), time, conditioning).sum().backward()
    assert x.grad is not None and not recorded
    start = "the cudagraphs engine "
    assert lines(caplog) == [
        f"{start}takes no feature caches; using eager",
        f"{start}gives no gradients; using eager",
    ]


def test_weights_that_are_elsewhere_are_not_recorded(recorded, caplog) -> None:
    """`make_room` moves a network off a full GPU, and hooks bring it back for a step."""
    unet, engine = network(), CudaGraphsEngine()
    here, run = unet.conv_in.weight, engine.network(unet)
    unet.conv_in.weight = nn.Parameter(here.to("meta"), requires_grad=False)
    handle = unet.register_forward_pre_hook(lambda *_: setattr(unet.conv_in, "weight", here))
    run(*inputs_of())
    assert not recorded
    assert lines(caplog) == [
        "the cudagraphs engine needs all weights on cpu (meta has some); using eager",
    ]
    handle.remove()
    check(run, unet)
    assert len(recorded) == 1


def test_a_recording_that_fails_is_a_line_and_memory_that_runs_out_is_left_to_the_drawing(
    recorded, monkeypatch, caplog
) -> None:
    def failing(error: Exception):
        def record(*given):
            raise error

        return record

    unet = network()
    run = CudaGraphsEngine().network(unet)
    monkeypatch.setattr(cudagraphs, "record", failing(MemoryError()))
    with pytest.raises(MemoryError):
        run(*inputs_of())
    monkeypatch.setattr(cudagraphs, "record", failing(RuntimeError("operation not permitted when stream is capturing")))
    for _ in range(2):
        check(run, unet)
    assert lines(caplog) == [
        "the cudagraphs engine failed (operation not permitted when stream is capturing); using eager"
    ]


def test_a_machine_or_a_model_without_a_gpu_is_a_line(monkeypatch, caplog) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert engine_for("cudagraphs", CPU).name == "eager"
    assert lines(caplog) == ["the cudagraphs engine needs a CUDA GPU, and there is none here; using eager"]
    caplog.clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    unet = network()
    check(engine_for("cudagraphs", CPU).network(unet), unet)
    assert lines(caplog) == ["the cudagraphs engine runs on CUDA GPUs, and this network is on cpu; using eager"]


def test_a_step_waits_for_no_result_which_recordings_do_not_allow() -> None:
    """Tensors without numbers: whatever needs one on the CPU (`.item()`, a choice, a mask as an index) fails."""
    x, time, conditioning = inputs_of()
    unet = network().to("meta")
    assert unet(x.to("meta"), time.to("meta"), conditioning.to("meta")).shape == x.shape
