"""Locks between processes, and the leftovers of killed writers."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkout import ROOT

from ldm.io.disk.files import free_space, write_file, write_folder
from ldm.io.disk.lock import hold

SPAWN = multiprocessing.get_context("spawn")


def _hold_and_wait(path: Path, taken, end) -> None:
    with hold(path) as held:
        assert held
        taken.set()
        end.wait(60)


def _append(path: Path, lock: Path, word: str) -> None:
    for _ in range(50):
        with hold(lock, wait=True) as held:
            assert held
            before = path.read_text()
            time.sleep(0.0005)
            path.write_text(before + word)


def test_a_lock_is_had_by_one_process_and_goes_with_it(tmp_path):
    lock, taken, end = tmp_path / ".lock", SPAWN.Event(), SPAWN.Event()
    holder = SPAWN.Process(target=_hold_and_wait, args=(lock, taken, end))
    holder.start()
    assert taken.wait(60)
    with hold(lock) as held:
        assert not held
    holder.kill()
    holder.join(60)
    with hold(lock) as held:
        assert held
        with hold(lock) as again:
            assert not again
    with hold(lock) as held:
        assert held


def test_who_waits_comes_after_and_nothing_is_lost(tmp_path):
    file, lock = tmp_path / "list", tmp_path / ".list.lock"
    file.write_text("")
    writers = [SPAWN.Process(target=_append, args=(file, lock, word)) for word in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert sorted(file.read_text()) == ["a"] * 50 + ["b"] * 50


@pytest.mark.skipif(os.name == "nt", reason="kills the writer by a signal")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_writer_left_is_cleared_by_the_next(tmp_path, kind):
    path = tmp_path / "model"
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        f"from ldm.io.disk.files import {'replace_file' if kind == 'file' else 'write_folder'} as write\n"
        "with write(Path(sys.argv[1])):\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL and not path.exists() and len(list(tmp_path.iterdir())) == 1
    if kind == "file":
        write_file(path, b"whole")
    else:
        with write_folder(path) as temporary:
            (temporary / "file").write_bytes(b"whole")
    assert [left.name for left in tmp_path.iterdir()] == ["model"]


def test_free_space_is_that_of_the_disk_where_it_will_be(tmp_path):
    there, later = free_space(tmp_path), free_space(tmp_path / "not" / "yet")
    assert there > 0 and abs(there - later) < 2**30


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_forked_workers_do_not_keep_the_lock_of_a_killed_process(tmp_path):
    lock = tmp_path / ".lock"
    script = (
        "import multiprocessing, os, signal, sys, time; from pathlib import Path\n"
        "from ldm.io.disk.lock import hold\n"
        "with hold(Path(sys.argv[1])) as held:\n"
        "    worker = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))\n"
        "    worker.start()\n"
        "    print(held, worker.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", script, str(lock)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        held, worker = process.stdout.readline().split()  # not its end, which the worker holds open
        process.wait()
        try:
            os.kill(int(worker), 0)  # it still runs
            free, until = False, time.monotonic() + 20
            while not free and time.monotonic() < until:  # a worker that has just begun lets go in its first moments
                with hold(lock) as free:
                    pass
                time.sleep(0.01)
            assert held == b"True" and free
        finally:
            os.kill(int(worker), signal.SIGKILL)
