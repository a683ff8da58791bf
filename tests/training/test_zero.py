"""What DeepSpeed cannot do here is refused in one line, before a network is touched."""

import os
from datetime import timedelta
from importlib import util
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DeepSpeedPlugin
from torch import nn

from ldm.training.config import LoopConfig
from ldm.training.distributed import processes, zero
from ldm.training.distributed.zero import Zero, require_deepspeed

_TWO = SimpleNamespace(num_processes=2, mixed_precision="bf16")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "DEEPSPEED_ZERO_STAGE",
            "3",
            "zero_stage: 3 is not supported with DeepSpeed; use 1 or 2, .*fsdp2.yaml",
        ),
        ("DEEPSPEED_ZERO_STAGE", "0", "zero_stage: 0 is not supported"),
        ("DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "cpu", "offload_optimizer_device: cpu .* use none"),
        ("DEEPSPEED_OFFLOAD_PARAM_DEVICE", "cpu", "offload_param_device: cpu .* use none"),
        ("GRADIENT_CLIPPING", "0.5", "gradient_clipping: 0.5 .* use loop.clip_norm"),
        ("GRADIENT_ACCUMULATION_STEPS", "4", "gradient_accumulation_steps: 4 .* use loop.micro_batch_size"),
    ],
)
def test_settings_of_accelerate_that_are_not_done_are_refused(variable, value, message, monkeypatch):
    monkeypatch.setenv(f"ACCELERATE_{variable}", value)
    with pytest.raises(ValueError, match=message):
        Zero.requested_by(_TWO, DeepSpeedPlugin())


def test_file_of_deepspeeds_own_settings_is_refused(monkeypatch, tmp_path):
    file = tmp_path / "zero.json"
    file.write_text('{"zero_optimization": {"stage": 2}}')
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    with pytest.raises(ValueError, match=r"deepspeed_config_file: .*zero.json is not supported .* use zero_stage"):
        Zero.requested_by(_TWO, DeepSpeedPlugin())


def test_fp16_is_refused():
    with pytest.raises(ValueError, match="mixed_precision: fp16 is not supported with DeepSpeed; use bf16"):
        Zero.requested_by(SimpleNamespace(num_processes=2, mixed_precision="fp16"), DeepSpeedPlugin())


@pytest.mark.parametrize("stage", [1, 2])
def test_stages_that_are_done(stage, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", str(stage))
    assert Zero.requested_by(_TWO, DeepSpeedPlugin()) == Zero(stage)
    assert Zero.requested_by(SimpleNamespace(num_processes=1, mixed_precision="no"), DeepSpeedPlugin()) is None


@pytest.mark.parametrize("optimizer", ["adamw8bit", "adafactor", "muon"])
def test_optimizers_that_look_at_whole_tensors_are_refused(optimizer):
    with pytest.raises(ValueError, match=f"loop.optimizer={optimizer} looks at whole tensors.*use adamw"):
        require_deepspeed({"unet": nn.Linear(2, 2)}, LoopConfig(optimizer=optimizer))


def test_missing_deepspeed_names_the_extra(monkeypatch):
    monkeypatch.setattr(zero, "find_spec", lambda name: None if name == "deepspeed" else util.find_spec(name))
    with pytest.raises(ValueError, match=r"pip install 'ldm\[deepspeed\]'"):
        require_deepspeed({"unet": nn.Linear(2, 2)}, LoopConfig())


def test_single_numbers_are_refused():
    scaled = nn.Linear(2, 2)
    scaled.scale = nn.Parameter(torch.zeros(()))
    with pytest.raises(ValueError, match=r"clip: scale is a single number.*use configs/accelerate/fsdp2.yaml"):
        require_deepspeed({"clip": scaled}, LoopConfig())


def test_processes_join_without_accelerates_engine_with_patience_on_the_asked_device(monkeypatch):
    """Whoever asks for the device first, before the training starts: the first one's settings hold."""
    seen = {}

    def joined(**settings):
        seen.update(settings, engine=os.environ.get("ACCELERATE_USE_DEEPSPEED", "false"))
        return SimpleNamespace(device="cpu")

    monkeypatch.setattr(processes, "PartialState", joined)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert processes.join() == "cpu"
    assert seen == {"cpu": True, "timeout": timedelta(hours=2), "engine": "false"}
    assert os.environ["ACCELERATE_USE_DEEPSPEED"] == "true", "the training could not see what it was asked for"
