"""One process, two replicas (DDP) and two parts (FSDP2) are one training: losses, checkpoints, ends. Nobody hangs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkout import ROOT, SUPPORT
from safetensors.torch import load_file
from torch import nn

from autoencoder.build import build_autoencoder
from autoencoder.config import AutoencoderConfig, LossConfig
from autoencoder.training.trainable import trained
from ldm.data.recipes.digits import build_digits
from ldm.training.checkpoints.checkpoint_folder import read_state
from ldm.training.distributed.fsdp import Sharding, require_splittable

pytestmark = pytest.mark.slow

_SAMPLES = 48
_ONE, _REPLICAS, _PARTS = {"processes": 1}, {"processes": 2}, {"processes": 2, "sharded": True}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    """A function that runs one tiny training and returns the exit codes of its processes."""
    data = tmp_path_factory.mktemp("digits")
    build_digits(data, size=16)
    errors = (tmp_path_factory.mktemp("errors") / "stderr").open("w+")
    server = subprocess.Popen(
        [sys.executable, str(SUPPORT / "tiny_training.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        cwd=ROOT,
    )

    def run(output: Path, **settings: Any) -> list[int]:
        server.stdin.write(json.dumps({"output": str(output), "data": str(data), **settings}) + "\n")
        server.stdin.flush()
        codes = json.loads(server.stdout.readline() or "[]")
        errors.seek(0)
        assert codes and set(codes) <= {0, 3, 130, -signal.SIGKILL}, errors.read()
        return codes

    yield run
    server.stdin.close()
    server.wait(timeout=60)
    errors.close()


@pytest.fixture(scope="module")
def one(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted training of one process."""
    output = tmp_path_factory.mktemp("one")
    assert tiny(output, **_ONE, preview_every=16, validate_every=16) == [0]
    return output


def _stats(output: Path, name: str = "unet/loss") -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (output / "stats.jsonl").read_text().splitlines()]
    return [line for line in lines if name in line]


def _newest(output: Path) -> Path:
    return sorted((output / "checkpoints").glob("[0-9]*"))[-1]


def _assert_same_training(output: Path, one: Path, module_name: str = "unet") -> None:
    """The same losses and gradients at every step, and a last checkpoint of the same tensors, whole ones."""
    losses = f"{module_name}/loss"
    for mine, theirs in zip(_stats(output, losses), _stats(one, losses), strict=True):
        for name in ("samples", "learning_rate", losses, f"{module_name}/gradient_norm"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-5), name
    assert _newest(output).name == _newest(one).name == f"{_SAMPLES:012d}"
    files = sorted(path.name for path in _newest(one).glob("*.safetensors"))
    assert files == sorted(path.name for path in _newest(output).glob("*.safetensors"))
    assert len(files) == 4  # weights, two averages, optimizer
    for name in files:
        mine, theirs = load_file(_newest(output) / name), load_file(_newest(one) / name)
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            torch.testing.assert_close(mine[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "accumulation"),
    [
        (_PARTS, 1),
        ({**_PARTS, "reshard": False}, 4),
    ],
    ids=["parts", "parts-4"],
)
def test_parts_train_as_one_process_does(kind, accumulation, tiny, one, tmp_path):
    """Replicas do too: see test_training_exact_resume."""
    assert set(tiny(tmp_path, **kind, accumulation=accumulation, preview_every=16, validate_every=16)) == {0}
    _assert_same_training(tmp_path, one)
    mine, theirs = ([line["validation/loss"] for line in _stats(each, "validation/loss")] for each in (tmp_path, one))
    assert len(mine) == 3 and mine == pytest.approx(theirs, rel=1e-4)
    name = "export/unet/diffusion_pytorch_model.safetensors"
    exported, expected = load_file(tmp_path / name), load_file(one / name)
    average = load_file(_newest(tmp_path) / "unet_ema.safetensors")
    assert exported.keys() == expected.keys() == average.keys()
    for key, value in average.items():
        assert torch.equal(exported[key], value), "the export is not the gathered average"
    shown = sorted(path.name for path in (tmp_path / "previews").glob("*.png"))
    assert shown == [f"pictures-{seen:09d}.png" for seen in (16, 32, 48)]


@pytest.mark.parametrize(
    "kinds",
    [
        (_ONE, _PARTS, _ONE),
        (_REPLICAS, _PARTS, _REPLICAS),
    ],
    ids=["one", "replicas"],
)
def test_checkpoints_go_from_any_kind_to_any_other(kinds, tiny, one, tmp_path):
    """Killed after the checkpoints of 16 and 32 samples, each time gone on with by another kind."""
    for kind, kill in zip(kinds, (20, 36, -1), strict=True):
        assert (-signal.SIGKILL in tiny(tmp_path, **kind, kill=kill)) == (kill > 0)
    _assert_same_training(tmp_path, one)


def test_clip_trains_in_parts_and_its_checkpoints_go_to_any_kind(tiny, tmp_path):
    """Its temperature, a single number, stays whole, and learns from all processes. Each compares four pictures."""
    one = {"task": "clip", "processes": 1, "accumulation": 2}
    assert tiny(tmp_path / "one", **one) == [0]
    assert tiny(tmp_path / "parts", task="clip", **_PARTS) == [0, 0]
    _assert_same_training(tmp_path / "parts", tmp_path / "one", "clip")
    scales = [[line["clip/scale"] for line in _stats(tmp_path / name, "clip/scale")] for name in ("parts", "one")]
    assert scales[0] == pytest.approx(scales[1], rel=1e-6) and len(set(scales[0])) == len(scales[0])
    for kind, kill in ((one, 20), ({"task": "clip", **_PARTS, "reshard": False}, 36), (one, -1)):
        tiny(tmp_path / "mixed", **kind, kill=kill)
    _assert_same_training(tmp_path / "mixed", tmp_path / "one", "clip")


def test_a_partly_frozen_network_trains_in_parts(tiny, tmp_path):
    """Averages and checkpoints leave out the same weights, and a checkpoint goes from one kind to the other."""
    for name, kind, kill in (("one", _ONE, -1), ("parts", _PARTS, -1), ("mixed", _PARTS, 20), ("mixed", _ONE, -1)):
        tiny(tmp_path / name, **kind, frozen=True, kill=kill)
    held = load_file(_newest(tmp_path / "one") / "unet_ema.safetensors")
    assert held and not any(key.startswith("down_blocks") for key in held)
    for name in ("parts", "mixed"):
        _assert_same_training(tmp_path / name, tmp_path / "one")
    exports = [
        load_file(tmp_path / name / "export/unet/diffusion_pytorch_model.safetensors") for name in ("parts", "one")
    ]
    assert exports[0].keys() == exports[1].keys() > held.keys()
    assert all(torch.equal(exports[0][key], exports[1][key]) for key in exports[0] if key.startswith("down_blocks"))


def test_parts_skip_a_bad_step_that_one_process_has_and_go_on(tiny, tmp_path):
    """In the third step of six, with a checkpoint after the fourth."""
    assert tiny(tmp_path / "one", **_ONE, stumble=16) == [0]
    assert tiny(tmp_path / "parts", **_PARTS, stumble=16, kill=36) != [0, 0]
    assert tiny(tmp_path / "parts", **_PARTS) == [0, 0]
    _assert_same_training(tmp_path / "parts", tmp_path / "one")
    assert len(_stats(tmp_path / "parts", "unet/loss")) == 5
    states = [read_state(_newest(tmp_path / name)) for name in ("parts", "one")]
    assert states[0] == states[1] and states[0]["skipped"] == 1


@pytest.mark.parametrize("kind", [_REPLICAS, _PARTS], ids=["replicas", "parts"])
@pytest.mark.parametrize(("event", "code", "saved"), [("interrupt", 130, 24), ("diverge", 3, 32)])
def test_what_happens_to_one_process_ends_all_of_them(kind, event, code, saved, tiny, tmp_path):
    """A signal to one, or a loss that only one of them loses, in the third step, with previews before and after."""
    assert tiny(tmp_path, **kind, **{event: 16}, preview_every=8, validate_every=8) == [code, code]
    assert int(_newest(tmp_path).name) == saved
    assert not (tmp_path / "export").exists()
    assert all(value.isfinite().all() for value in load_file(_newest(tmp_path) / "unet.safetensors").values())


class _Plugin:
    """What `Sharding.requested_by` reads of accelerate's plugin."""

    fsdp_version, cpu_offload, activation_checkpointing, reshard_after_forward = 2, None, False, True


class _Processes:
    num_processes, mixed_precision = 2, "no"


@pytest.mark.parametrize(
    ("owner", "field", "value", "message"),
    [
        (_Plugin, "fsdp_version", 1, "fsdp_version: 1 is not supported in sharded training; use fsdp_version: 2"),
        (_Plugin, "activation_checkpointing", True, "use loop.gradient_checkpointing"),
        (_Processes, "mixed_precision", "fp16", "use bf16"),
    ],
)
def test_settings_of_accelerate_that_are_not_done_are_refused(owner, field, value, message, monkeypatch):
    monkeypatch.setattr(owner, field, value)
    with pytest.raises(ValueError, match=message):
        Sharding.requested_by(_Processes(), _Plugin())


def test_offloading_is_refused(monkeypatch):
    from torch.distributed.fsdp import CPUOffloadPolicy

    monkeypatch.setattr(_Plugin, "cpu_offload", CPUOffloadPolicy())
    with pytest.raises(ValueError, match="fsdp_offload_params: true is not supported"):
        Sharding.requested_by(_Processes(), _Plugin())


def test_networks_that_cannot_be_split_are_refused():
    with pytest.raises(ValueError, match=r"a and b train against each other, which cannot be sharded; use"):
        require_splittable({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model = build_autoencoder(AutoencoderConfig(widths=(8,), blocks_per_level=1, norm_groups=4, codebook_size=8))
    restarting = trained(model, LossConfig(restart_codes=True), decoder_only=False)
    with pytest.raises(ValueError, match=r"autoencoder: loss\.restart_codes=true puts codes elsewhere"):
        require_splittable({"autoencoder": restarting})
    require_splittable({"autoencoder": trained(model, LossConfig(restart_codes=True), decoder_only=True)})
