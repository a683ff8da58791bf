"""`ldm train status RUN` tells what is in the folder, also while it is being filled."""

import json
import subprocess
import sys

import pytest
from regression import trainer
from typer.testing import CliRunner

from ldm.cli import app
from ldm.training.reports.plot import plot

_YAML = "task: line\nloop:\n  samples: 64\n  batch_size: 8\n"


def _status(*arguments: str):
    return CliRunner().invoke(app, ["train", "status", *arguments])


def test_status_shows_what_a_person_wants_to_know(tmp_path):
    trainer(tmp_path, bad=(5,), samples=32).fit()
    (tmp_path / "config.yaml").write_text(_YAML)
    with (tmp_path / "stats.jsonl").open("a") as file:
        file.write('{"samples": 40, "ti')  # being written just now
    shown = _status(str(tmp_path)).stdout
    assert "4 of 8" in shown and "32 of 64 (50.0%)" in shown
    assert "samples/s" in shown and "left" in shown and "learning rate" in shown and "line/loss, now" in shown
    assert "checkpoints/000000000032" in shown and "verified" in shown
    found = json.loads(_status(str(tmp_path), "--json").stdout)
    assert found["step"] == 4 and found["steps"] == 8 and found["seconds_left"] > 0
    assert found["skipped"] == len((tmp_path / "skipped.jsonl").read_text().splitlines())
    assert len(found["losses"]["line/loss"]) == 4 - found["skipped"]


def test_status_says_that_a_checkpoint_is_damaged(tmp_path):
    trainer(tmp_path).fit()
    weights = tmp_path / "checkpoints" / "000000000064" / "line.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "DAMAGED (line.safetensors)" in _status(str(tmp_path)).stdout


def test_status_before_the_first_report(tmp_path):
    (tmp_path / "config.yaml").write_text(_YAML)
    shown = _status(str(tmp_path)).stdout
    assert "0 of 8" in shown and "none yet" in shown and "not logged yet" in shown


def test_status_of_nothing_is_one_line(tmp_path):
    result = _status(str(tmp_path))
    assert result.exit_code == 1
    assert "holds no training" in result.stderr and len(result.stderr.splitlines()) == 1


def test_status_needs_no_torch(tmp_path):
    (tmp_path / "config.yaml").write_text(_YAML)
    code = "import sys; from ldm.training.reports.status import read_status; from pathlib import Path;"
    code += f"read_status(Path({str(tmp_path)!r})); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([1.0], ["1 ┤", "1 ┤▁"]),
        ([0.0, 1.0], ["1 ┤ █", "0 ┤▁█"]),
        ([3.0, 1.0, 2.0], ["3 ┤█ ▁", "1 ┤█▁█"]),
    ],
)
def test_plot_of_known_curves(values, expected):
    assert plot(values, width=10, height=2) == expected


def test_plot_has_the_width_it_is_given_and_averages_what_is_too_much():
    lines = plot([float(i % 2) for i in range(1000)] + [9.0] * 500, width=30, height=4)
    assert all(len(line.split("┤")[1]) <= 30 for line in lines)
    assert lines[0].startswith("  9 ┤") and lines[-1].startswith("0.5 ┤")
