"""A loss or gradient that is not finite costs one step, is written down, and never reaches the weights."""

import json
import math
from dataclasses import replace

import pytest
import torch
from regression import Regression, trainer, weights_of

from ldm.training.checkpoints.checkpoint_folder import checkpoints, read_state


def _lines(path):
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


class _InfiniteGradient(Regression):
    """The loss of every sample is finite; its gradient at step 2 is not."""

    def loss(self, module_name, batch, generators, samples_seen):
        found = super().loss(module_name, batch, generators, samples_seen)["loss"]
        return {"loss": found + torch.sqrt(found - found.detach()) * 0.0 if samples_seen == 16 else found}


def test_step_with_a_bad_sample_is_skipped_counted_and_named(tmp_path):
    run = trainer(tmp_path, bad=(5, 40))
    run.fit()
    skipped = _lines(tmp_path / "skipped.jsonl")
    order = {line["samples"]: run.loader.sample_ids(line["samples"] - 8) for line in skipped}
    bad_steps = [start + 8 for start in range(0, 64, 8) if {5, 40} & set(run.loader.sample_ids(start))]
    assert [line["samples"] for line in skipped] == bad_steps
    for line in skipped:
        assert line["sample_ids"] == order[line["samples"]] and line["line/loss"] == "nan"
    assert run.progress.skipped == len(bad_steps) and run.samples_seen == 64
    assert _lines(tmp_path / "stats.jsonl")[-1]["skipped"] == len(bad_steps)
    assert read_state(checkpoints(tmp_path / "checkpoints")[-1])["skipped"] == len(bad_steps)
    assert all(torch.isfinite(value).all() for value in weights_of(run).values())


def test_skipped_step_leaves_weights_averages_moments_and_buffers_as_they_were(tmp_path):
    run = trainer(tmp_path, samples=128)
    steps = run.loader.steps(0, torch.device("cpu"))
    for _ in range(3):
        run._step(next(steps))
    module_name = run.trained_modules["line"]
    before = [weights_of(run), {k: v.clone() for k, v in module_name.averages[0].module.state_dict().items()}]
    moments = [v.clone() for state in module_name.optimizers[0].state.values() for v in state.values()]
    bad = next(steps)
    bad[0]["x"][0] = float("inf")
    _, faults = run._step(bad)
    assert faults and run.samples_seen == 32
    for expected, found in zip(before, (module_name.module, module_name.averages[0].module), strict=True):
        assert all(torch.equal(value, found.state_dict()[key]) for key, value in expected.items())
    now = [v for state in module_name.optimizers[0].state.values() for v in state.values()]
    assert all(torch.equal(a, b) for a, b in zip(moments, now, strict=True))


def test_infinite_gradient_of_a_finite_loss_is_skipped(tmp_path):
    run = trainer(tmp_path, objective=_InfiniteGradient())
    run.fit()
    (line,) = _lines(tmp_path / "skipped.jsonl")
    assert line["samples"] == 24 and math.isfinite(float(line["line/loss"])) and line["line/gradient_norm"] == "nan"
    assert all(torch.isfinite(value).all() for value in weights_of(run).values())


def test_too_many_in_a_row_stop_with_a_finite_checkpoint(tmp_path):
    run = trainer(tmp_path, bad=range(64), max_skipped=3)
    run.fit()
    assert "3 steps in a row were not finite (line/loss nan" in run.divergence
    assert run.samples_seen == 24 and not (tmp_path / "export").exists()
    again = trainer(tmp_path)
    again._resume("auto")
    assert again.progress.skipped_in_a_row == 3
    assert all(torch.isfinite(value).all() for value in weights_of(again).values())


def test_good_steps_between_bad_ones_reset_the_count(tmp_path):
    run = trainer(tmp_path, bad=range(0, 64, 13), max_skipped=8)
    run.fit()
    assert not run.divergence and run.progress.skipped >= 2 and run.progress.skipped_in_a_row < run.progress.skipped


def test_count_and_lines_survive_a_resume(tmp_path):
    whole = trainer(tmp_path / "whole", bad=(5, 40))
    whole.fit()
    half = trainer(tmp_path / "half", bad=(5, 40), samples=32)
    half.fit()
    line = json.dumps({"samples": 40, "sample_ids": []})
    with (tmp_path / "half" / "skipped.jsonl").open("a") as file:
        file.write(f"{line}\n")  # as a kill after the last checkpoint leaves it
    rest = trainer(tmp_path / "half", bad=(5, 40))
    rest.fit()
    assert rest.progress == replace(whole.progress)
    clocks = [[line["samples"] for line in _lines(tmp_path / name / "skipped.jsonl")] for name in ("whole", "half")]
    assert clocks[0] == clocks[1]
    assert all(torch.equal(value, weights_of(rest)[key]) for key, value in weights_of(whole).items())
