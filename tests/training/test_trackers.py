"""TensorBoard and W&B get the numbers of stats.jsonl, and a resumed training continues their runs."""

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from regression import Regression, trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ldm.training.reports.trackers import Trackers


class _Shown(Regression):
    def preview(self, batch, modules):
        return {"pictures": torch.rand(4, 3, 8, 8)}


def _run(folder: Path, **settings):
    return trainer(folder, objective=_Shown(), preview_every=32, **settings)


def _board(folder: Path) -> EventAccumulator:
    board = EventAccumulator(str(folder / "tensorboard" / "tests"))
    board.Reload()
    return board


def test_tensorboard_has_the_scalars_of_stats_and_the_grids(tmp_path):
    _run(tmp_path, trackers=("tensorboard",), project="tests").fit()
    board = _board(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    logged = [(event.step, pytest.approx(event.value)) for event in board.Scalars("line/loss")]
    assert logged == [(line["samples"], line["line/loss"]) for line in lines] and len(logged) == 8
    assert [event.step for event in board.Images("pictures")] == [32, 64, 64]
    image = board.Images("pictures")[0]
    assert (image.width, image.height) == (16, 16)


def test_a_resumed_tensorboard_has_every_clock_once(tmp_path):
    for samples in (32, 64):
        _run(tmp_path, trackers=("tensorboard",), project="tests", samples=samples).fit()
    assert [event.step for event in _board(tmp_path).Scalars("line/loss")] == list(range(8, 72, 8))


_OFFLINE = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_trackers import _run
import wandb
_run(Path({folder!r}), trackers=("wandb",), project="tests", samples={samples}).fit()
"""


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: after 7 bytes a log in LevelDB's format, whose blocks are 32 KiB."""
    place, record = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        _, length, kind = struct.unpack_from("<IHB", content, place)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@pytest.mark.slow
def test_wandb_offline_keeps_scalars_grids_and_the_run_over_a_resume(tmp_path):
    """In a process of its own, as a user's: wandb starts a service that would outlive the test."""
    from wandb.proto import wandb_internal_pb2 as protocol

    environment = {
        **os.environ,
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    environment.pop("PYTEST_XDIST_WORKER_COUNT", None)
    for samples in (32, 64):
        script = _OFFLINE.format(tests=str(Path(__file__).parent), folder=str(tmp_path), samples=samples)
        subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)
    run_id = (tmp_path / "wandb_id").read_text().strip()
    assert [path.stem for path in files] == [f"run-{run_id}"] * 2
    clocks, shown = [], set()
    for file in files:
        for data in _records(file.read_bytes()):
            record = protocol.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                run = record.run
                assert (run.project, run.display_name, run.run_id) == ("tests", tmp_path.name, run_id)
            if record.WhichOneof("record_type") == "history":
                keys = {(item.key or ".".join(item.nested_key)): item.value_json for item in record.history.item}
                clocks += [json.loads(keys["_step"])] if "line/loss" in keys else []
                shown |= {json.loads(keys["_step"])} if any(key.startswith("pictures") for key in keys) else set()
    assert clocks == list(range(8, 72, 8)) and shown == {32, 64}
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/*.png"))


@pytest.mark.parametrize(("package", "extra"), [("wandb", "ldm[wandb]"), ("tensorboard", "ldm[data]")])
def test_a_missing_package_is_one_line_before_the_first_step(tmp_path, monkeypatch, package, extra):
    monkeypatch.setattr("ldm.training.reports.trackers.find_spec", lambda name: None if name == package else object())
    message = f"loop.trackers=['{package}']: {package} is not installed; pip install '{extra}', or leave it out"
    with pytest.raises(ValueError, match=re.escape(message)):
        trainer(tmp_path / "run", trackers=(package,))
    assert not (tmp_path / "run").exists()


def test_wandb_without_a_key_says_what_to_do(tmp_path, monkeypatch):
    from wandb.errors import UsageError

    run = trainer(tmp_path, trackers=("wandb",))

    def refuse(*arguments, **settings):
        raise UsageError("No API key configured.\nUse `wandb login`")

    monkeypatch.setattr(run.accelerator, "init_trackers", refuse)
    with pytest.raises(ValueError, match=r"wandb does not start \(No API key configured. Use .*WANDB_MODE=offline"):
        run.fit()
    assert run.samples_seen == 0


def test_a_full_disk_costs_the_line_not_the_training(tmp_path, caplog):
    class _Full:
        name = "tensorboard"

        def log(self, values, step):
            raise OSError(28, "No space left on device")

        def log_images(self, values, step, dataformats):
            raise OSError(28, "No space left on device")

        def finish(self):
            raise OSError(28, "No space left on device")

    run = trainer(tmp_path, trackers=())
    trackers = Trackers(run.accelerator, run.run)
    run.accelerator.trackers = [_Full()]
    trackers.log({"loss": 1.0}, 8)
    trackers.picture("pictures", torch.zeros(4, 4, 3, dtype=torch.uint8), 8)
    trackers.close()
    assert caplog.text.count("No space left on device") == 3
    assert run.accelerator.trackers == []


def test_an_unknown_tracker_is_named_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"unknown loop.trackers 'wandbe'; did you mean 'wandb'"):
        trainer(tmp_path, trackers=("wandbe",))


@pytest.mark.parametrize(("run_name", "shown"), [("", "digits-7"), ("second try", "second try")])
def test_a_run_is_named_after_its_folder_or_as_requested(tmp_path, run_name, shown):
    run = trainer(tmp_path / "digits-7", run_name=run_name)
    (tmp_path / "digits-7").mkdir()
    settings = run.trackers._wandb()
    assert settings["name"] == shown and settings["config"]["loop"]["run_name"] == run_name
