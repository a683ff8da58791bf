"""A training gives signs of life that say whether it runs, how fast it is and how long it still takes."""

import io
import json
import time
from pathlib import Path

import pytest
from regression import trainer
from rich.console import Console
from typer.testing import CliRunner

from ldm.cli import app
from ldm.training.reports.heartbeat import FILE, Heartbeat, read_beat
from ldm.training.reports.status import read_status


def test_speed_and_time_left_are_known_after_ten_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    heart = Heartbeat(tmp_path, samples=10_000, samples_seen=0)
    said = []
    for step in range(1, 21):
        now[0] += 2.0
        said.append(heart.beat(8 * step))
    assert said[:9] == [""] * 9 and said[9] == "0:41:20 left"  # (10,000 - 80) / 4 per second
    beat = read_beat(tmp_path)
    assert beat is not None and beat.samples_per_second == pytest.approx(4) and beat.state == "running"


@pytest.mark.parametrize(
    ("seen", "orderly", "state"), [(64, True, "finished"), (32, True, "stopped"), (64, False, "stopped")]
)
def test_the_end_is_written_down(tmp_path: Path, seen: int, orderly: bool, state: str) -> None:
    Heartbeat(tmp_path, 64, seen).stop(orderly)
    beat = read_beat(tmp_path)
    assert beat is not None and beat.state == state


def test_a_killed_training_is_stopped_and_damage_is_no_sign(tmp_path: Path) -> None:
    Heartbeat(tmp_path, 64, 8)
    content = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**content, "time": time.time() - 3600}))
    beat = read_beat(tmp_path)
    assert beat is not None and beat.state == "stopped"
    for damage in ("", "[1]", "{}", '{"samples_seen": 1}'):
        (tmp_path / FILE).write_text(damage)
        assert read_beat(tmp_path) is None


def test_a_training_leaves_its_state_and_the_samples_of_no_report(tmp_path: Path) -> None:
    quiet = trainer(tmp_path, samples=32, log_every=10_000)
    quiet.fit()
    (tmp_path / "config.yaml").write_text("task: line\nloop:\n  samples: 32\n  batch_size: 8\n")
    status = read_status(tmp_path)
    assert status.state == "finished" and status.samples_seen == 32 and status.silent is not None
    shown = CliRunner().invoke(app, ["train", "status", str(tmp_path)]).stdout
    assert "finished" in shown.splitlines()[0]


def test_the_bar_fits_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ldm.training.reports import report as module

    made = []
    plain = module.Progress

    def wide(*columns: object, **options: object) -> object:
        console = Console(width=80, force_terminal=True, record=True, file=io.StringIO())
        made.append(plain(*columns, console=console, **options))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(module, "Progress", wide)
    long = trainer(tmp_path, samples=64)
    long.fit()
    (bar,) = made
    bar.tasks[0].total, bar.tasks[0].completed = 2_000_000, 1_999_999
    bar.update(bar.tasks[0].id, left="123:45:06 left")
    line = "".join(segment.text for segment in bar.console.render(bar.get_renderable())).rstrip("\n")
    assert "1,999,999/2,000,000 samples" in line and "123:45:06 left" in line and "…" not in line
    assert all(len(each.rstrip()) <= 80 for each in line.splitlines())


def test_a_budget_of_minutes_ends_with_an_export_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, real = [0.0], time.monotonic

    def clock() -> float:
        now[0] += 6.0
        return real() + now[0]

    monkeypatch.setattr("ldm.training.loop.time.monotonic", clock)
    first = trainer(tmp_path, minutes=0.3)
    first.fit()
    assert first.out_of_time and not first.interrupted and 0 < first.samples_seen < 64
    assert (tmp_path / "export").is_dir()
    again = trainer(tmp_path)
    again.fit()
    assert not again.out_of_time and again.samples_seen == 64
