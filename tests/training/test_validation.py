"""The validation loss is a function of the weights alone, and taking it leaves the training as it was."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from checkout import ROOT, SUPPORT
from regression import trainer, trainer_of
from tiny_networks import tiny_objective
from torch import nn

from autoencoder.latent_format import LatentFormat
from ldm.data.recipes.digits import build_digits
from ldm.training.checkpoints.checkpoint_folder import checkpoints
from ldm.training.config import LoopConfig
from ldm.training.diffusion.config import DiffusionConfig
from ldm.training.loop import Trainer
from ldm.training.objectives.latent_diffusion import LatentDiffusionObjective
from ldm.training.reports.status import describe, read_status
from ldm.training.reports.validation import validation_losses

CPU = torch.device("cpu")


class _Points:
    """Latents that are all `value`, exactly, of the `shapes` in turn."""

    def __init__(self, value: float, shapes=((4, 8, 8),), count: int = 48) -> None:
        self.value, self.shapes, self.weights, self.given = value, shapes, np.ones(count), []

    def __len__(self) -> int:
        return len(self.weights)

    def item(self, index: int, generator: torch.Generator) -> dict:
        self.given.append(index)
        mean = torch.full(self.shapes[index % len(self.shapes)], self.value)
        return {"mean": mean, "std": torch.zeros_like(mean), "label": index % 3}


class _Silent(nn.Module):
    """A network that always answers 0, and keeps its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.load_options = nn.Parameter(torch.zeros(())), []

    def forward(self, x, time, conditioning):
        self.load_options.append((x.clone(), time.clone(), conditioning.labels.clone()))
        return torch.zeros_like(x)


def _objective(**settings) -> LatentDiffusionObjective:
    return tiny_objective(LatentFormat(factor=2), **settings)


def _losses(objective, dataset, network, count=48, seed=0) -> dict[str, float]:
    return validation_losses(objective, dataset, {"unet": network}, count, seed, CPU)


def test_a_silent_network_has_the_loss_of_the_closed_form():
    """x0 = c everywhere and the answer 0 to "what is x0": c^2 at every time; to v: c^2 sigma^2 + alpha^2 on average."""
    found = _losses(_objective(prediction_type="sample"), _Points(3.0), _Silent())
    assert found == pytest.approx({"loss": 9.0, **{f"quarter_{i}": 9.0 for i in (1, 2, 3, 4)}})
    objective = _objective(prediction_type="v_prediction")
    found = _losses(objective, _Points(3.0), _Silent())
    process = DiscreteLevels(objective, 48)
    assert found["loss"] == pytest.approx(process.mean(0, 48), rel=0.03)
    for quarter in range(4):
        expected = process.mean(12 * quarter, 12 * quarter + 12)
        assert found[f"quarter_{quarter + 1}"] == pytest.approx(expected, rel=0.05)


class DiscreteLevels:
    """9 sigma^2 + alpha^2 at the times in the middle of 48 equal parts of 1000 training steps."""

    def __init__(self, objective: LatentDiffusionObjective, count: int) -> None:
        process = DiffusionConfig().make_process()
        times = ((torch.arange(count).double() + 0.5) / count * 1000).floor()
        alpha, sigma = process.levels(times)
        self.values = 9 * sigma**2 + alpha**2

    def mean(self, start: int, end: int) -> float:
        return float(self.values[start:end].mean())


def test_samples_times_and_noise_are_the_same_each_time_and_nothing_is_dropped():
    objective, networks = _objective(condition_dropout=0.9), (_Silent(), _Silent())
    sets = [_Points(1.0), _Points(1.0)]
    for network, points in zip(networks, sets, strict=True):
        _losses(objective, points, network, count=16)
        torch.rand(3)  # the global generator does not matter
    assert sets[0].given == sets[1].given == [3 * i for i in range(16)]
    for first, second in zip(networks[0].load_options, networks[1].load_options, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    times = torch.cat([load_options[1] for load_options in networks[0].load_options])
    assert times.sort().values.tolist() == [(1000 * (2 * i + 1)) // 32 for i in range(16)]
    assert (torch.cat([load_options[2] for load_options in networks[0].load_options]) < 3).all()
    other = _Silent()
    _losses(objective, _Points(1.0), other, count=16, seed=1)
    assert not torch.equal(other.load_options[0][0], networks[0].load_options[0][0])


def test_samples_of_several_shapes_are_validated_together():
    points = _Points(2.0, shapes=((4, 8, 8), (4, 4, 16)))
    assert _losses(_objective(prediction_type="sample"), points, _Silent())["loss"] == pytest.approx(4.0)


def _fit(folder, validate_every: int, samples: int = 32) -> Trainer:
    config = LoopConfig(
        samples=samples,
        batch_size=8,
        precision="fp32",
        log_every=8,
        preview_every=0,
        save_minutes=0,
        previews=1,
        ema_half_life=16,
        trackers=(),
        validate_every=validate_every,
        validation_samples=12,
    )
    run = trainer_of(_objective(), _Points(1.0), config, folder, lambda folder, modules: None)
    run.fit()
    return run


def test_validating_changes_no_byte_of_the_training_and_is_logged(tmp_path):
    _fit(tmp_path / "without", 0), _fit(tmp_path / "with", 16)
    one, other = (checkpoints(tmp_path / name / "checkpoints")[-1] for name in ("without", "with"))
    for file in sorted(path.name for path in one.glob("*.safetensors")):
        assert (one / file).read_bytes() == (other / file).read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "with" / "stats.jsonl").read_text().splitlines()]
    validated = [line for line in lines if "validation/loss" in line]
    assert [line["samples"] for line in validated] == [16, 32]
    assert validated[0]["validation/loss"] != validated[1]["validation/loss"] != validated[1]["validation_raw/loss"]
    assert validated[0]["validation/loss"] == pytest.approx(
        sum(validated[0][f"validation/quarter_{i}"] for i in (1, 2, 3, 4)) / 4
    )
    status = read_status(tmp_path / "with")
    assert len(status.losses["validation/loss"]) == 2 and status.learning_rate is not None
    assert "validation/loss, now" in describe(status) and "validation_raw/loss, now" in describe(status)


def test_a_resumed_training_validates_at_the_same_clocks(tmp_path):
    _fit(tmp_path / "whole", 16), _fit(tmp_path / "half", 16, samples=16)
    _fit(tmp_path / "half", 16, samples=32)
    values = []
    for name in ("whole", "half"):
        lines = [json.loads(line) for line in (tmp_path / name / "stats.jsonl").read_text().splitlines()]
        values.append({line["samples"]: line["validation/loss"] for line in lines if "validation/loss" in line})
    assert values[0].keys() == values[1].keys() == {16, 32}


@pytest.mark.slow
def test_two_processes_validate_without_waiting_for_ever_and_to_the_same_bytes(tmp_path):
    build_digits(tmp_path / "data", size=16)
    settings = {"data": str(tmp_path / "data"), "processes": 2}
    lines = [json.dumps({**settings, "output": str(tmp_path / str(n)), "validate_every": n}) for n in (0, 16)]
    command = [sys.executable, str(SUPPORT / "tiny_training.py")]
    place = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, timeout=300, env=place)
    assert [json.loads(codes) for codes in done.stdout.splitlines()] == [[0, 0], [0, 0]], done.stderr
    without, validated = (checkpoints(tmp_path / name / "checkpoints")[-1] for name in ("0", "16"))
    for file in without.glob("*.safetensors"):
        assert file.read_bytes() == (validated / file.name).read_bytes()
    assert (tmp_path / "16" / "stats.jsonl").read_text().count("validation/loss") == 3


def test_an_objective_without_times_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"validate_every=16 is for denoisers \(task: ldm or distill\).*set it to 0"):
        trainer(tmp_path, validate_every=16)
