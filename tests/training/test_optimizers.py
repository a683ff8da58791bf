"""Optimizers and number formats by name, and what is said about wrong ones."""

import copy
import importlib.util
import re

import pytest
import torch
from accelerate.state import AcceleratorState
from regression import Regression, trainer, weights_of
from torch import nn

from ldm.training.config import LoopConfig
from ldm.training.optimization.optimizer_step import Update
from ldm.training.optimization.optimizers import build_optimizers

_HAS_8BIT = importlib.util.find_spec("bitsandbytes") is not None
_NAMES = ["adamw", "adafactor", "muon", *(["adamw8bit"] if _HAS_8BIT else [])]


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(4, 8)
        self.conv = nn.Conv2d(8, 8, 3)
        self.linear = nn.Linear(8, 8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)


@pytest.mark.parametrize(("clip_norm", "share"), [(0.0, 1.0), (2.0, 0.4), (5.0, 1.0), (9.0, 1.0)])
def test_a_gradient_is_shortened_to_the_limit_and_never_lengthened(clip_norm, share):
    net = nn.Linear(2, 1, bias=False)
    before, gradient = net.weight.detach().clone(), torch.tensor([[3.0, 4.0]])
    net.weight.grad = gradient.clone()
    update = Update(net, [torch.optim.SGD(net.parameters(), 0.1)])
    update.step(update.norm(), clip_norm)
    torch.testing.assert_close(net.weight.detach(), before - 0.1 * share * gradient)


@pytest.mark.parametrize("name", _NAMES)
def test_every_trainable_parameter_has_one_optimizer(name):
    net = _Net()
    held = [p for o in build_optimizers(net, LoopConfig(optimizer=name)) for g in o.param_groups for p in g["params"]]
    assert len(held) == len({id(p) for p in held})
    assert {id(p) for p in held} == {id(p) for p in net.parameters() if p.requires_grad}


@pytest.mark.parametrize("name", _NAMES)
def test_norms_and_biases_are_not_decayed(name):
    net = _Net()
    for optimizer in build_optimizers(net, LoopConfig(optimizer=name, weight_decay=0.3)):
        for group in optimizer.param_groups:
            assert group["weight_decay"] == (0.3 if group["params"][0].ndim > 1 else 0.0)


def test_muon_takes_matrices_and_leaves_embeddings_and_kernels_to_adamw():
    net = _Net()
    muon, adamw = build_optimizers(net, LoopConfig(optimizer="muon"))
    assert [p is net.linear.weight for g in muon.param_groups for p in g["params"]] == [True]
    assert isinstance(muon, torch.optim.Muon) and isinstance(adamw, torch.optim.AdamW)
    with pytest.raises(ValueError, match=r"this network has none; use loop.optimizer=adamw"):
        build_optimizers(nn.Conv2d(3, 3, 3), LoopConfig(optimizer="muon"))


@pytest.mark.parametrize("name", _NAMES)
def test_each_learns_and_resumes_to_the_last_bit(name, tmp_path):
    settings = {"optimizer": name, "width": 1500, "learning_rate": 0.01, "lr_shape": "linear"}
    whole = trainer(tmp_path / "whole", save_every=16, keep=9, **settings)
    first = whole._step(next(whole.loader.steps(0, torch.device("cpu"))))[0]["line/loss"]
    whole = trainer(tmp_path / "whole", save_every=16, keep=9, **settings)
    whole.fit()
    resumed = trainer(tmp_path / "resumed", **settings)
    resumed.fit(str(tmp_path / "whole" / "checkpoints" / "000000000032"))
    assert all(torch.equal(value, weights_of(resumed)[key]) for key, value in weights_of(whole).items())
    last = whole._step(next(whole.loader.steps(0, torch.device("cpu"))))[0]["line/loss"]
    assert last < first


@pytest.mark.skipif(_HAS_8BIT, reason="bitsandbytes is here")
def test_missing_8_bit_library_is_named():
    with pytest.raises(ValueError, match="adamw8bit needs bitsandbytes; pip install bitsandbytes, or use loop"):
        build_optimizers(_Net(), LoopConfig(optimizer="adamw8bit"))


def test_half_precision_parameters_are_refused(tmp_path):
    objective = Regression()
    objective.trained_modules["line"][1].half()
    with pytest.raises(ValueError, match=r"line: 1.weight is float16, but trainable parameters must be float32"):
        trainer(tmp_path, objective=objective)


def test_half_precision_that_is_frozen_is_welcome(tmp_path):
    objective = Regression()
    objective.trained_modules["line"].add_module("frozen", nn.Linear(2, 2).half().requires_grad_(False))
    trainer(tmp_path, objective=objective)


@pytest.fixture
def launched(monkeypatch):
    """As `accelerate launch --cpu --mixed_precision ...` would start us."""
    AcceleratorState._reset_state(True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    yield lambda name: monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", name)
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize(
    ("flag", "setting", "message"),
    [
        ("bf16", "fp32", "loop.precision=fp32, but accelerate was launched with --mixed_precision bf16; drop one"),
        ("no", "fp16", "loop.precision=fp16 needs a CUDA GPU; use bf16 or fp32"),
        ("fp16", "auto", "loop.precision=fp16 needs a CUDA GPU; use bf16 or fp32"),
        ("fp8", "auto", "accelerate's --mixed_precision fp8 is not supported; use no, bf16 or fp16"),
    ],
)
def test_wrong_precision_flags_are_named(flag, setting, message, launched, tmp_path):
    launched(flag)
    with pytest.raises(ValueError, match=re.escape(message)):
        trainer(tmp_path, precision=setting)


def test_precision_of_the_launch_is_used(launched, tmp_path):
    launched("bf16")
    run = trainer(tmp_path, precision="auto")
    assert run.accelerator.mixed_precision == "bf16"
    run.fit()
    assert all(value.dtype in (torch.float32, torch.int64) for value in weights_of(run).values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="fp16 is for CUDA GPUs")
def test_fp16_scales_its_gradients_and_resumes(tmp_path):
    AcceleratorState._reset_state(True)
    run = trainer(tmp_path, precision="fp16")
    run.fit()
    again = trainer(tmp_path, precision="fp16", samples=128)
    again._resume("auto")
    assert again.loss_scale.state == run.loss_scale.state and run.loss_scale.state["scale"] > 1
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adam"}, "unknown loop.optimizer 'adam'; did you mean 'adamw'"),
        ({"lr_shape": "cosin"}, "unknown loop.lr_shape 'cosin'; did you mean 'cosine'"),
        ({"precision": "fp8"}, "unknown loop.precision 'fp8'; did you mean"),
        ({"keep": 0}, "loop.keep=0 must be at least 1"),
        ({"max_skipped": 0}, "loop.max_skipped=0 must be at least 1"),
        ({"keep_every": -1}, "loop.keep_every=-1 is negative"),
        ({"ema_more": (20_000.0,)}, "other numbers >= 0 than loop.ema_half_life"),
        ({"export_half_life": 7.0}, "loop.export_half_life=7 is not kept; use 20000 or 0"),
    ],
)
def test_wrong_loop_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LoopConfig(**settings)


class _Two(Regression):
    """Two lines that learn the same, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.trained_modules["judge"] = copy.deepcopy(self.trained_modules["line"])


@pytest.mark.parametrize("lr_multiplier", [0.0, 0.25])
def test_lr_multiplier_scales_the_rate_of_further_modules(tmp_path, lr_multiplier):
    run = trainer(tmp_path, objective=_Two(), lr_multiplier=lr_multiplier, weight_decay=0.0)
    before = weights_of(run)
    run._step(next(run.loader.steps(0, torch.device("cpu"))))
    first, second = (
        run.trained_modules[name].module.state_dict()["1.weight"] - before["1.weight"] for name in ("line", "judge")
    )
    assert first.abs().min() > 0
    torch.testing.assert_close(second, lr_multiplier * first, rtol=1e-4, atol=1e-9)
