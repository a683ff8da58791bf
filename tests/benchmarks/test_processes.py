"""Sides in processes of their own: one at a time, in rounds, and what becomes of one that does not come back."""

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.measuring import Options, Outcome, Side, compare
from benchmarks.processes import apart, in_processes, in_rounds, named, peak_memory, warm_outcome
from benchmarks.tables import table
from benchmarks.unet import step, step_sides

pytestmark = pytest.mark.slow

QUICK = Options(torch.device("cpu"), (torch.float32,), repetitions=2, quick=True, rounds=2)
X = torch.arange(4.0)


def sides(*names: str) -> list[Side]:
    return [Side(name, lambda: lambda: X, ours=name == "ldm") for name in names]


def visit(name: str, journal: Path) -> Outcome:
    """What the side of a name does in its process."""
    with journal.open("a") as file:
        file.write(f"{name} begins {os.getpid()}\n")
    if name == "slow":
        other = subprocess.Popen(["sleep", "600"])
        journal.with_name("slow").write_text(f"{os.getpid()} {other.pid}")
        time.sleep(600)
    if name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "gone":
        os._exit(3)
    if name == "missing":
        raise ModuleNotFoundError("No module named 'openvino'", name="openvino")
    if name == "large":
        torch.empty(2**60)
    found = warm_outcome(named(sides(name), name), QUICK)
    with journal.open("a") as file:
        file.write(f"{name} ends {os.getpid()}\n")
    return found


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def test_rounds_have_every_side_once_in_turn_and_one_at_a_time(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    found = compare("a step", in_processes(sides("a", "b"), 2, QUICK, visit, journal), QUICK, torch.float32)
    lines = [line.rsplit(" ", 1) for line in journal.read_text().splitlines()]
    assert [what for what, _ in lines] == [
        f"{name} {what}" for name in ("a", "b", "b", "a") for what in ("begins", "ends")
    ]
    assert len({process for _, process in lines} | {str(os.getpid())}) == 5
    for each in found.sides:
        assert len(each.seconds) == len(each.wall) == QUICK.rounds * QUICK.repetitions and each.agreement == 1
        assert each.memory > 50e6


def test_a_side_that_does_not_come_back_is_a_row_with_the_reason_and_is_no_more(tmp_path: Path) -> None:
    names = ("first", "slow", "killed", "gone", "missing", "large")
    started = time.perf_counter()
    apart(peak_memory)  # how long a process takes to begin here
    options = replace(QUICK, limit=5 + 3 * (time.perf_counter() - started))
    found = compare("a step", in_processes(sides(*names), 1, options, visit, tmp_path / "a"), options, torch.float32)
    notes = {each.name: each.note for each in found.sides}
    assert notes == {
        "first": "",
        "slow": f"took longer than {options.limit / 60:g} minutes",
        "killed": "killed, as Linux does where memory runs out",
        "gone": "its process ended with 3",
        "missing": "not installed (openvino)",
        "large": "out of memory",
    }
    assert all(not each.seconds for each in found.sides if each.note) and notes["slow"] in table(found)
    for pid in map(int, (tmp_path / "slow").read_text().split()):  # the process, and what it started
        for _ in range(100):
            if not _runs(pid):
                break
            time.sleep(0.05)
        assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_sides_stay_in_memory_where_all_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, in_memory in ((None, True), (12_000, True), (11_999, False)):
        monkeypatch.setattr("benchmarks.processes.free_memory", lambda device, free=free: free)
        for compiled in (False, True):
            options = replace(QUICK, compiled=compiled, rounds=3)
            found = in_rounds(sides("a", "b"), 3000, options, visit)
            assert [each.turns for each in found] == [0 if in_memory and not compiled else 3] * 2


def test_a_step_apart_gives_what_it_gives_here() -> None:
    name = "diffusers, eager"
    here = warm_outcome(named(step_sides("sd1", QUICK, torch.float32), name), QUICK)
    there = apart(step, name, "sd1", QUICK, torch.float32)
    assert np.abs(here.output).max() > 0 and np.array_equal(here.output, there.output)
    assert len(here.wall) == len(there.processor) == QUICK.repetitions


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux")
def test_the_peak_of_a_process_is_not_that_of_the_one_that_started_it() -> None:
    held = np.ones(2**27)  # 1 GB
    assert apart(peak_memory) < held.nbytes < peak_memory()
