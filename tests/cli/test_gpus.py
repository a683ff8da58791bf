"""`ldm generate --gpus`: shares, the pictures of one process, and ends that nobody wished for; on CPUs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from checkout import ROOT
from PIL import Image
from typer.testing import CliRunner

from ldm.cli import app
from ldm.cli.gpus import shared, visible_gpus

SCRIPT = """
import signal
import sys
import ldm.cli.gpus as gpus
gpus.visible_gpus = lambda text: [""] * int(text)
if __name__ == "__main__":
    from ldm.cli import main
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests with Ctrl-C ignored
    main(sys.argv[1:])
"""


@pytest.mark.parametrize(("count", "among"), [(7, 3), (2, 5), (6, 2), (0, 2), (1, 1)])
def test_shares_keep_order_and_differ_by_one_at_most(count: int, among: int):
    shares = shared(range(count), among)
    assert [each for share in shares for each in share] == list(range(count))
    sizes = [len(share) for share in shares]
    assert len(shares) == min(count, among) and (not sizes or (max(sizes) - min(sizes) <= 1 and min(sizes) > 0))


@pytest.mark.parametrize(
    ("text", "visible", "expected"),
    [
        ("all", "", ["0", "1", "2"]),
        ("2", "", ["0", "1"]),
        ("0,2", "", ["0", "2"]),
        ("2,0", "4,5,GPU-7", ["GPU-7", "4"]),
    ],
)
def test_gpus_by_count_and_by_number(text: str, visible: str, expected: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus(text) == expected


@pytest.mark.parametrize("text", ["0", "4", "-1", "0,3", "1,1", "two", "0,", ""])
def test_gpus_that_are_not_there(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(ValueError, match=f"--gpus {text} is not possible: 0 to 2 are there; use all, how many"):
        visible_gpus(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpus", "all"], "--gpus all needs CUDA GPUs, and torch finds none; leave it out"),
        (["--gpus", "2", "--device", "cpu"], "--gpus 2 and --device cpu were given; use one of them"),
        (["--gpus", "2", "--show"], "--gpus 2 has no previews; leave out --preview and --show"),
    ],
)
def test_what_is_refused(options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    result = CliRunner().invoke(app, ["generate", "apple", "-o", str(tmp_path), *options])
    assert result.exit_code == 2 and message in result.stderr and not any(tmp_path.iterdir())


def command(folder: Path, tmp_path: Path, *options: str) -> tuple[list[str], dict[str, str]]:
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    place = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return [sys.executable, str(script), "generate", "--model", str(folder), "--steps", "2", *options], place


@pytest.mark.slow
def test_the_pictures_are_those_of_one_process(tiny_folder: Path, tmp_path: Path):
    for name, options in (("one", []), ("two", ["--gpus", "2"])):
        wanted = ["apple", "dark sea", "-n", "3", "--seed", "5", "-o", str(tmp_path / name), *options]
        arguments, place = command(tiny_folder, tmp_path, *wanted)
        done = subprocess.run(arguments, capture_output=True, text=True, env=place, timeout=120, check=True)
        assert len(done.stdout.splitlines()) == 8
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert len(one) == 8 and one == two


@pytest.mark.slow
def test_an_interrupt_ends_all_and_a_death_is_one_line(tiny_folder: Path, tmp_path: Path):
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, 1)):
        output = tmp_path / number.name
        many = ["apple", "-n", "400", "--steps", "50", "--gpus", "2", "-o", str(output)]
        arguments, place = command(tiny_folder, tmp_path, *many)
        running = subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=place)
        assert running.stdout is not None
        running.stdout.readline()  # the first picture is there
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        workers = [int(each) for each in children if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]
        assert len(workers) == 2
        if number is signal.SIGINT:
            running.send_signal(number)
        else:
            for each in workers:
                os.kill(each, number)
        _, errors = running.communicate(timeout=60)
        assert running.returncode == code and "Traceback" not in errors, errors
        said = "interrupted: " if number is signal.SIGINT else "process 0 (SIGKILL), 1 (SIGKILL) of --gpus died"
        assert sum(said in line for line in errors.splitlines()) == 1, errors
        for path in output.glob("*.png"):
            Image.open(path).load()
        assert not [path for path in output.iterdir() if path.suffix != ".png"]
        time.sleep(0.1)
        assert not any(Path(f"/proc/{each}").exists() for each in workers)
