"""A training that is killed and resumed ends with the very bytes of one that was not."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from checkout import ROOT
from command_line import complaint, ldm
from safetensors.torch import load_file

from ldm.data.recipes.digits import build_digits

pytestmark = pytest.mark.slow

_TINY = [
    "data.size=16",
    "autoencoder.widths=[8,8]",
    "autoencoder.norm_groups=4",
    "loss.discriminator_weight=0.5",
    "loss.discriminator_start=64",
    "loss.discriminator_width=4",
    "loss.discriminator_levels=1",
    "loop.samples=480",
    "loop.batch_size=8",
    "loop.save_every=32",
    "loop.save_minutes=0",
    "loop.log_every=8",
    "loop.previews=4",
    "loop.precision=fp32",
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    build_digits(folder, size=16)
    return folder


def _settings(digits: Path, output: Path, *more: str) -> list[str]:
    config = str(ROOT / "configs/digits/autoencoder.yaml")
    return [config, f"data.folder={digits}", f"output={output}", *_TINY, *more]


def _command(digits: Path, output: Path, *more: str) -> list[str]:
    return [sys.executable, str(ROOT / "train_ldm.py"), *_settings(digits, output, *more)]


def _train(digits: Path, output: Path, *more: str):
    """What `_command` does, in this process, which has imported torch."""
    done = ldm("train", *_settings(digits, output, *more))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)


@pytest.fixture(scope="module")
def uninterrupted(digits, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted")
    done = _run(*_command(digits, output))
    assert done.returncode == 0, done.stderr
    return output


def _checkpoints(output: Path) -> list[Path]:
    return sorted((output / "checkpoints").glob("[0-9]*"))


def _wait_for_checkpoint(output: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while not _checkpoints(output):
        assert process.poll() is None and time.monotonic() < deadline, "the training ended before it could be killed"
        time.sleep(0.02)


def _assert_same_state(output: Path, expected: Path) -> None:
    mine, theirs = _checkpoints(output)[-1], _checkpoints(expected)[-1]
    assert mine.name == theirs.name == "000000000480"
    for file in sorted(theirs.glob("*.safetensors")):
        right, found = load_file(file), load_file(mine / file.name)
        assert right.keys() == found.keys()
        for name, value in right.items():
            assert torch.equal(value, found[name]), f"{file.name}: {name}"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_resume_is_bit_identical_after(number, digits, uninterrupted, tmp_path):
    command = _command(digits, tmp_path)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait_for_checkpoint(tmp_path, process)
    process.send_signal(number)
    code = process.wait(timeout=240)
    assert code == (-9 if number == signal.SIGKILL else 130)
    assert _checkpoints(tmp_path)[-1].name < "000000000480", "it was killed too late to show anything"
    done = _run(*command)
    assert done.returncode == 0, done.stderr
    _assert_same_state(tmp_path, uninterrupted)
    clocks = [json.loads(line)["samples"] for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert clocks == sorted(set(clocks)), "samples seen twice are reported once"


def test_accumulated_micro_batches_equal_the_whole_batch(digits, tmp_path):
    """The mean gradient does not depend on how a batch is cut (up to rounding)."""
    weights = []
    for micro in (0, 2):
        output = tmp_path / str(micro)
        settings = (f"loop.micro_batch_size={micro}", "loss.discriminator_weight=0", "loop.samples=16")
        done = _train(digits, output, *settings)
        assert done.exit_code == 0, done.stderr
        weights.append(load_file(_checkpoints(output)[-1] / "autoencoder.safetensors"))
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=2e-4)


def test_a_training_that_is_lost_stops_with_code_3_and_a_finite_checkpoint(digits, tmp_path):
    settings = ("loop.learning_rate=1e30", "loop.warmup=0", "loop.max_skipped=3", "loop.cooldown=0")
    done = _train(digits, tmp_path, *settings)
    assert done.exit_code == 3, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ldm: stopped: 3 steps in a row were not finite (autoencoder/loss")
    assert "see skipped.jsonl" in last and "loop.learning_rate" in last and "Traceback" not in done.stderr
    skipped = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert len(skipped) == 3 and all(len(line["sample_ids"]) == 8 for line in skipped)
    for value in load_file(_checkpoints(tmp_path)[-1] / "autoencoder.safetensors").values():
        assert torch.isfinite(value).all()


def test_a_config_of_another_model_is_named(digits, uninterrupted):
    done = _train(digits, uninterrupted, "autoencoder.widths=[8,16]")
    assert done.exit_code == 2
    assert "does not fit autoencoder" in done.stderr and "Traceback" not in done.stderr
    assert "it was trained with autoencoder.widths=[8, 8] (not [8, 16]); use that or another output" in done.stderr


def test_a_batch_that_does_not_divide_is_named(digits, tmp_path):
    """What `accelerate launch` sets for each of three processes; nothing is written."""
    from ldm.data.pictures.dataset import PictureDataset
    from ldm.training.batches.loader import BatchLoader
    from ldm.training.config import LoopConfig

    with pytest.raises(
        ValueError, match=r"^loop.batch_size=8 does not divide among 3 processes; use 6, or another number"
    ):
        BatchLoader(PictureDataset(digits, 16), LoopConfig(batch_size=8), processes=3, rank=0)


def test_launch_on_a_cpu_says_that_it_is_one_process(digits, uninterrupted):
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    done = _run(*launcher, *_command(digits, uninterrupted, "resume=never")[1:])
    assert "warning: accelerate started one process, although more were requested; `torchrun" in done.stderr


def test_a_finished_training_is_not_overwritten_by_resume_never(digits, uninterrupted):
    done = _train(digits, uninterrupted, "resume=never")
    assert done.exit_code == 2
    assert "already holds a training" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("loop.batchsize=3", "did you mean 'batch_size'"),
        ("loop.samples=many", "Integer"),
        ("loop.precision=int4", "unknown loop.precision 'int4'"),
        ("loop.precision=fp16", "loop.precision=fp16 needs a CUDA GPU; use bf16 or fp32"),
        ("data.folder=/nowhere", "/nowhere"),
    ],
)
def test_a_wrong_setting_is_one_line_and_leaves_nothing(setting, message, digits, tmp_path):
    output = tmp_path / "run"
    assert message in complaint(_train(digits, output, setting))
    assert not output.exists()
