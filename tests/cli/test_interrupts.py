"""Ctrl-C and SIGTERM at any time: exit codes of the shell, no traceback, no leftovers."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

from ldm.cli.errors import describe
from ldm.io.disk.files import write_file

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
# A shell starts its background jobs with Ctrl-C ignored, and children inherit that.
HEAR = """import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
send = lambda: os.kill(os.getpid(), {number})
"""


def _run(script: str, number: int) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", HEAR.format(number=int(number)) + script]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


@SIGNALS
def test_a_signal_while_libraries_are_imported_is_silent(number: int) -> None:
    finder = "type('Finder', (), {'find_spec': lambda self, name, *_: send() if name == 'typer' else None})()"
    result = _run(f"sys.meta_path.insert(0, {finder})\nfrom ldm.cli import main; main()", number)
    assert (result.returncode, result.stdout, result.stderr) == (128 + number, "", "")


@SIGNALS
@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_while_a_command_runs_has_the_shells_exit_code(number: int, times: int) -> None:
    busy = f"""
import ldm.cli.commands as commands
def busy():
    try:
        send()
        sys.modules['time'].sleep(10)
    finally:
        print('cleaned up' if {times} == 1 else '', flush=True)
        {times} > 1 and send()
        {times} > 1 and print('not reached')
commands.app.command('busy')(busy)
from ldm.cli import main; main(['busy'])"""
    result = _run(busy, number)
    assert result.returncode == 128 + number and "Traceback" not in result.stderr
    assert ("cleaned up" in result.stdout) == (times == 1) and "not reached" not in result.stdout


@SIGNALS
def test_a_signal_during_exit_is_silent(number: int) -> None:
    result = _run("import atexit; atexit.register(send)\nfrom ldm.cli import main; main(['--help'])", number)
    assert result.returncode == 128 + number and result.stderr == ""


@SIGNALS
def test_a_signal_in_one_long_computation_is_heard(number: int) -> None:
    script = """
import threading, torch
from ldm.cli import interrupts
interrupts._PATIENCE = 0.5
interrupts.listen()
matrix = torch.ones(4000, 4000, dtype=torch.float64)
threading.Timer(0.2, send).start()
for _ in range(9):
    matrix = matrix @ matrix
    print('a product', flush=True)"""
    result = _run(script, number)
    assert result.returncode == 128 + number and result.stdout == ""


def test_a_forked_worker_dies_of_what_it_is_sent() -> None:
    script = """
from ldm.cli import interrupts; interrupts.listen()
ready, begun = os.pipe()
child = os.fork()
if not child:
    os.write(begun, b'x'); sys.modules['time'].sleep(20); os._exit(0)
os.read(ready, 1)  # Python forgets what a child is sent before it has begun
os.kill(child, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"""
    result = _run(script, signal.SIGTERM)
    assert result.stdout.strip() == str(-signal.SIGTERM) and result.stderr == ""


def test_what_a_kill_left_is_cleared_by_the_next_writer_of_the_folder(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone = tmp_path / f".model.0123abcd.{ended.pid}.partial"
    kept = [
        tmp_path / f".model.0123abcd.{os.getpid()}.partial",  # its writer lives
        tmp_path / f".model.{ended.pid}.partial",  # not ours
        tmp_path / f"model.0123abcd.{ended.pid}.partial",
        tmp_path / f".model.0123abcd.{ended.pid}.tmp",
    ]
    for folder in (gone, *kept):
        folder.mkdir()
        (folder / "weights").write_bytes(b"x")
    write_file(tmp_path / "other.png", b"y")
    assert not gone.exists() and all(folder.exists() for folder in kept)


@pytest.mark.parametrize(
    "words",
    [
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried 6 bytes",
        "unable to mmap 8589934592 bytes from file <x>: Cannot allocate memory (12)",
    ],
)
def test_memory_that_ends_on_a_cpu_is_one_line(words: str) -> None:
    assert describe(RuntimeError(words), "generate") == (
        "out of memory; use a smaller --width and --height or --batch-size",
        1,
    )
    for command in ("train", "convert", "inspect", ""):
        message, code = describe(RuntimeError(words), command) or ("", 0)
        assert message.startswith("out of memory; ") and "--" not in message and "dtype" not in message and code == 1
    assert describe(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "generate") is None
