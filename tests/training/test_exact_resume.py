"""Killed twice and resumed, a training is the uninterrupted one: samples, learning rates, losses, weights, averages.

On one and two processes, with and without accumulation, from cached and from live latents.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkout import ROOT, SUPPORT
from PIL import Image
from safetensors.torch import load_file

from ldm.data.recipes.digits import build_digits

pytestmark = pytest.mark.slow

_TINY = str(SUPPORT / "tiny_training.py")
_KILLS = (12, 32)  # the first in the second step, before any checkpoint; the second in the step after one
_CASES = [(1, 1, False), (1, 4, False), (2, 1, False), (2, 4, False), (1, 1, True), (2, 4, True)]
_BATCH, _SAMPLES = 8, 48


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    build_digits(folder, size=16)
    return folder


@pytest.fixture(scope="module")
def tiny(digits: Path, tmp_path_factory: pytest.TempPathFactory):
    """A function that runs one tiny training and returns the exit codes of its processes."""
    errors = (tmp_path_factory.mktemp("errors") / "stderr").open("w+")
    server = subprocess.Popen(
        [sys.executable, _TINY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=_environment(),
        cwd=ROOT,
    )
    assert server.stdin is not None and server.stdout is not None

    def run(output: Path, **settings: Any) -> list[int]:
        server.stdin.write(json.dumps({"output": str(output), "data": str(digits), **settings}) + "\n")
        server.stdin.flush()
        codes = json.loads(server.stdout.readline() or "[]")
        errors.seek(0)
        assert codes and set(codes) <= {0, -signal.SIGKILL}, errors.read()
        return codes

    yield run
    server.stdin.close()
    server.wait(timeout=60)
    errors.close()


@pytest.fixture(scope="module")
def whole(tiny: Callable[..., list[int]], tmp_path_factory: pytest.TempPathFactory):
    """The uninterrupted training of a case, run once."""
    done: dict[tuple[int, int, bool], Path] = {}

    def of(processes: int, accumulation: int, live: bool) -> Path:
        key = (processes, accumulation, live)
        if key not in done:
            done[key] = tmp_path_factory.mktemp("whole")
            assert set(tiny(done[key], processes=processes, accumulation=accumulation, live=live)) == {0}
        return done[key]

    return of


def _trace(output: Path) -> dict[tuple[int, ...], dict[str, Any]]:
    """What every forward pass saw, by its positions; passes that were repeated after a kill must agree."""
    found: dict[tuple[int, ...], dict[str, Any]] = {}
    for path in sorted(output.glob("trace-*.jsonl")):
        for line in map(json.loads, path.read_text().splitlines()):
            assert found.setdefault(tuple(line["index"]), line) == line
    return found


def _stats(output: Path, *names: str) -> list[list[float]]:
    lines = [json.loads(line) for line in (output / "stats.jsonl").read_text().splitlines()]
    return [[line[name] for name in ("samples", *names)] for line in lines]


def _ids_of_steps(output: Path) -> list[list[int]]:
    """The sample ids of each step in the order of their positions, whichever process saw them."""
    forward_backward = _trace(output).values()
    ids = {position: id for line in forward_backward for position, id in zip(line["index"], line["ids"], strict=True)}
    return [[ids[start + i] for i in range(_BATCH)] for start in range(0, _SAMPLES, _BATCH)]


def _newest(output: Path) -> Path:
    return sorted((output / "checkpoints").glob("[0-9]*"))[-1]


def _weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(_newest(output) / "unet.safetensors")


@pytest.mark.parametrize(("processes", "accumulation", "live"), _CASES)
def test_killed_twice_is_bit_identical(processes, accumulation, live, tiny, whole, tmp_path):
    expected = whole(processes, accumulation, live)
    case = {"processes": processes, "accumulation": accumulation, "live": live}
    for kill in _KILLS:
        assert -signal.SIGKILL in tiny(tmp_path, **case, kill=kill)
    assert set(tiny(tmp_path, **case)) == {0}
    _assert_same(tmp_path, expected)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain folder: 40 pictures of three shapes, the eleventh cut off in its middle."""
    folder, random = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    rows = ["file_name,label,text"]
    for i in range(40):
        pixels = random.integers(0, 256, ((24, 24), (18, 32), (36, 20))[i % 3] + (3,), dtype=np.uint8)
        path = folder / f"{i:02}.png"
        Image.fromarray(pixels).save(path)
        rows.append(f"{path.name},{i % 10},picture {i}")
    torn = folder / "10.png"
    torn.write_bytes(torn.read_bytes()[:400])
    (folder / "metadata.csv").write_text("\n".join(rows))
    return folder


@pytest.mark.parametrize("case", [{"step": 4, "processes": 2}, {"live": True, "decode": True}])
def test_so_it_is_with_buckets_and_with_a_bad_picture_in_a_folder(case, photographs, tiny, tmp_path):
    case = {**case, "data": str(photographs)}
    assert set(tiny(tmp_path / "whole", **case)) == {0}
    for kill in _KILLS:
        assert -signal.SIGKILL in tiny(tmp_path / "killed", **case, kill=kill)
    assert set(tiny(tmp_path / "killed", **case)) == {0}
    _assert_same(tmp_path / "killed", tmp_path / "whole")
    forward_backward = _trace(tmp_path / "whole").values()
    assert len({tuple(line["size"]) for line in forward_backward}) == (3 if "step" in case else 1)
    assert any(10 in line["ids"] for line in forward_backward) and not any(
        "picture 10" in line["caption"] for line in forward_backward
    )
    for name in ("whole", "killed"):
        (line,) = (tmp_path / name / "bad_pictures.jsonl").read_text().splitlines()
        assert json.loads(line)["picture"] == str(photographs / "10.png")


def _assert_same(output: Path, expected: Path) -> None:
    """Samples, captions, rates, losses and all of the last checkpoint but its settings, which name the folder."""
    assert _trace(output) == _trace(expected)
    names = ("learning_rate", "unet/loss", "unet/gradient_norm")
    assert _stats(output, *names) == _stats(expected, *names)
    assert _newest(output).name == _newest(expected).name == f"{_SAMPLES:012d}"
    files = {path.name for path in _newest(expected).iterdir()} - {"config.yaml", "manifest.json"}
    assert {"unet.safetensors", "unet_ema.safetensors", "unet_ema_8.safetensors"} < files
    for name in files:
        assert (_newest(output) / name).read_bytes() == (_newest(expected) / name).read_bytes(), name


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 4), (2, 1), (2, 4)])
def test_processes_and_accumulation_change_nothing_but_rounding(processes, accumulation, whole):
    one, other = whole(1, 1, False), whole(processes, accumulation, False)
    assert _ids_of_steps(one) == _ids_of_steps(other)
    for mine, theirs in zip(_stats(one, "unet/loss"), _stats(other, "unet/loss"), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)
    for name, value in _weights(one).items():
        torch.testing.assert_close(value, _weights(other)[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (1, 4), (2, 1), (2, 4)])
def test_learning_rate_is_its_closed_form(processes, accumulation, whole):
    steps, warmup, peak = _SAMPLES // _BATCH, 2, 1e-3
    rates = [rate for _, rate in _stats(whole(processes, accumulation, False), "learning_rate")]
    course = [0.5 * (1 + math.cos(math.pi * max(k - warmup, 0) / (steps - warmup))) for k in range(steps)]
    assert rates == pytest.approx([peak * min(1, (k + 1) / warmup) * course[k] for k in range(steps)], rel=1e-6)


def test_cached_and_live_latents_give_the_same_losses(whole):
    """The cache keeps half-precision numbers of the autoencoder in the machine's fast format."""
    losses = [_stats(whole(1, 1, live), "unet/loss") for live in (True, False)]
    for mine, theirs in zip(*losses, strict=True):
        assert mine == pytest.approx(theirs, rel=2e-3)


def test_change_of_the_number_of_processes_goes_on_at_the_same_sample(tiny, whole, tmp_path):
    expected = whole(1, 1, False)
    assert -signal.SIGKILL in tiny(tmp_path, processes=1, kill=32)
    assert set(tiny(tmp_path, processes=2, kill=-1)) == {0}
    assert _ids_of_steps(tmp_path) == _ids_of_steps(expected)
    for mine, theirs in zip(_stats(tmp_path, "unet/loss"), _stats(expected, "unet/loss"), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


def _launch(digits: Path, output: Path) -> subprocess.Popen[str]:
    settings = json.dumps({"output": str(output), "data": str(digits), "processes": 2, "accumulation": 4, "pause": 0.1})
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.Popen(
        [*launcher, _TINY, settings],
        env=_environment() | ({"ACCELERATE_USE_CPU": "true"} if torch.accelerator.is_available() else {}),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _wait_for_checkpoint(output: Path, launcher: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not list((output / "checkpoints").glob("[0-9]*")):
        assert launcher.poll() is None and time.monotonic() < deadline, launcher.stderr.read()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def launched(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted training in two processes that torchrun started; `accelerate launch --cpu` starts only one."""
    output = tmp_path_factory.mktemp("launched")
    launcher = _launch(digits, output)
    _, errors = launcher.communicate(timeout=240)
    assert launcher.returncode == 0, errors
    return output


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_launched_training_resumes_after(number, digits, launched, tmp_path):
    """SIGKILL goes to every process; SIGTERM goes to the launcher, whose processes save before they leave."""
    first = _launch(digits, tmp_path)
    _wait_for_checkpoint(tmp_path, first)
    if number == signal.SIGKILL:
        for process in (first.pid, *(int(path.read_text()) for path in tmp_path.glob("process-*"))):
            os.kill(process, number)
    else:
        first.terminate()
    first.communicate(timeout=60)
    seen = max(line["seen"] for line in _trace(tmp_path).values()) + _BATCH
    assert _newest(tmp_path).name < f"{_SAMPLES:012d}", "it ended before the signal came"
    if number == signal.SIGTERM:
        assert int(_newest(tmp_path).name) == seen, "the last step was not saved"
    second = _launch(digits, tmp_path)
    _, errors = second.communicate(timeout=240)
    assert second.returncode == 0, errors
    assert _trace(tmp_path) == _trace(launched)
    for name in ("unet.safetensors", "unet_ema.safetensors", "unet_optimizer.safetensors"):
        assert (_newest(tmp_path) / name).read_bytes() == (_newest(launched) / name).read_bytes(), name
