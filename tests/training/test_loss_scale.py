"""Gradient scaling with real fp16 arithmetic and PyTorch's scaler for CPUs, put where accelerate puts that of a GPU."""

from pathlib import Path

import torch
from accelerate import Accelerator
from regression import Regression, trainer, weights_of

from ldm.training.checkpoints.checkpoint_folder import checkpoints, read_state
from ldm.training.loop import Trainer
from ldm.training.optimization.mixed_precision import LossScale

SCALE, GROWTH = 2.0**20, 6


class _Half(Regression):
    """Its products are fp16, whose largest number is 65,504."""

    def loss(self, module_name, batch, generators, samples_seen):
        with torch.autocast("cpu", torch.float16):
            return super().loss(module_name, batch, generators, samples_seen)


def _run(folder: Path, samples: int, bad=()) -> Trainer:
    run = trainer(folder, bad, objective=_Half(), samples=samples, lr_shape="constant")
    run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=GROWTH)
    run.loss_scale = LossScale(run.accelerator)
    return run


def test_an_overflow_is_skipped_halves_the_scale_and_the_training_goes_on(tmp_path):
    run = _run(tmp_path, 64)
    before, steps = weights_of(run), run.loader.steps(0, torch.device("cpu"))
    overflows = 0
    while True:
        scale = run.loss_scale.state["scale"]
        _, faults = run._step(next(steps))
        if not faults:
            break
        overflows += 1
        assert run.loss_scale.state["scale"] == scale / 2 == SCALE / 2**overflows
        assert all(torch.equal(value, before[key]) for key, value in weights_of(run).items())
    assert overflows >= 2 and run.loss_scale.state["scale"] == scale
    now = weights_of(run)
    assert any(not torch.equal(now[key], value) for key, value in before.items() if "weight" in key)
    assert all(torch.isfinite(value).all() for value in now.values())


def test_an_overflow_is_no_sign_of_a_lost_training_but_nan_is(tmp_path):
    run = _run(tmp_path / "good", 128)
    run.fit()
    assert run.progress.skipped >= 2 and run.progress.skipped_in_a_row == 0 and not run.divergence
    lost = _run(tmp_path / "bad", 256, bad=range(64))
    lost.fit()
    assert "steps in a row were not finite" in lost.divergence


def test_a_resumed_training_goes_on_with_the_scale_and_to_the_same_bytes(tmp_path):
    whole = _run(tmp_path / "whole", 128)
    whole.fit()
    _run(tmp_path / "half", 64).fit()
    kept = read_state(checkpoints(tmp_path / "half" / "checkpoints")[-1])["loss_scale"]
    assert kept["scale"] < SCALE and kept["growth_interval"] == GROWTH
    rest = _run(tmp_path / "half", 128)
    rest.fit()
    assert rest.loss_scale.state == whole.loss_scale.state
    assert all(torch.equal(value, weights_of(rest)[key]) for key, value in weights_of(whole).items())


def test_accelerate_would_train_in_fp32_without_a_scaler_on_a_cpu(monkeypatch):
    """Why `loop.precision=fp16` needs a GPU: accelerate takes it on a CPU, says nothing, and does nothing."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    accelerator = Accelerator(mixed_precision="fp16", cpu=True)
    with accelerator.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert accelerator.scaler is None
