"""Whatever is wrong with a numbered folder is damage: never trained over, never passed over without a word."""

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from regression import trainer
from safetensors.torch import load_file, save_file

from ldm.training.checkpoints.checkpoint_folder import MANIFEST, STATE, checkpoints, damaged_files, write_manifest

_OLD, _NEW = "000000000048", "000000000064"


def _relisted(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """A change after which the manifest is written anew, so that every hash is right."""

    def damage(path: Path) -> None:
        change(path)
        (path / MANIFEST).unlink()
        write_manifest(path)

    return damage


def _state(**changed: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        state = json.loads((path / STATE).read_text()) | changed
        (path / STATE).write_text(json.dumps({key: value for key, value in state.items() if value is not None}))

    return _relisted(change)


def _write(name: str, text: str) -> Callable[[Path], object]:
    return lambda path: (path / name).write_text(text)


def _other_weights(path: Path) -> None:
    weights = load_file(path / "line.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, path / "other.safetensors")
    (path / "other.safetensors").replace(path / "line.safetensors")


def _as_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("not a folder")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda path: (path / MANIFEST).unlink(), MANIFEST),
    "a file in its place": (_as_file, MANIFEST),
    "empty folder": (lambda path: [file.unlink() for file in path.iterdir()], MANIFEST),
    "manifest is a list": (_write(MANIFEST, "[1, 2]"), MANIFEST),
    "manifest is a number": (_write(MANIFEST, "5"), MANIFEST),
    "manifest lists nothing": (_write(MANIFEST, "{}"), MANIFEST),
    "manifest is deep": (_write(MANIFEST, "[" * 100_000), MANIFEST),
    "manifest is not text": (lambda path: (path / MANIFEST).write_bytes(b"\xff\xfe\x00"), MANIFEST),
    "other weights": (_other_weights, "line.safetensors"),
    "weights that are none": (_relisted(_write("line.safetensors", "no tensors")), "line.safetensors"),
    "weights that nobody listed": (_write("more.safetensors", "?"), "more.safetensors"),
    "no state": (_relisted(lambda path: (path / STATE).unlink()), STATE),
    "state is a list": (_relisted(_write(STATE, "[]")), STATE),
    "state is no JSON": (_relisted(_write(STATE, "{")), STATE),
    "no clock": (_state(samples_seen=None), STATE),
    "clock is text": (_state(samples_seen="64"), STATE),
    "clock of another": (_state(samples_seen=8), STATE),
    "no optimizer": (_state(optimizer=None), STATE),
    "skipped is text": (_state(skipped="two"), STATE),
    "scale is a list": (_state(loss_scale=[1]), STATE),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The checkpoints of a training of 64 samples: at 48 and 64."""
    trainer(tmp_path, save_every=16).fit()
    return tmp_path / "checkpoints"


def _bytes(path: Path) -> dict[str, bytes]:
    files = path.iterdir() if path.is_dir() else [path]
    return {file.name: file.read_bytes() for file in files}


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_checkpoint_before_a_damaged_one_is_taken_with_a_line(
    kind: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage, named = DAMAGE[kind]
    damage(folder / _NEW)
    left = _bytes(folder / _NEW)
    with caplog.at_level(logging.WARNING):
        trainer(folder.parent).fit()
    assert f"{_NEW} is damaged ({named}); trying the one before" in caplog.text
    assert [path.name for path in checkpoints(folder)] == [_OLD, _NEW] and not damaged_files(folder / _NEW)
    kept = list(_bytes(folder / f"aside-{_NEW}-0").values())
    assert sorted(kept) == sorted(left.values())


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_training_without_a_whole_checkpoint_is_refused_and_untouched(kind: str, folder: Path) -> None:
    damage, _ = DAMAGE[kind]
    for path in checkpoints(folder):
        damage(path)
    if kind == "clock of another":
        shutil.rmtree(folder / _OLD)
    before = {path.name: _bytes(path) for path in folder.iterdir()}
    with pytest.raises(ValueError, match=r"all \d checkpoints in .* are damaged; restore one or use another") as error:
        trainer(folder.parent).fit()
    assert "\n" not in str(error.value)
    assert {path.name: _bytes(path) for path in folder.iterdir()} == before


def test_never_sees_a_damaged_training_too(folder: Path) -> None:
    for path in checkpoints(folder):
        (path / MANIFEST).unlink()
    with pytest.raises(ValueError, match="already holds a training"):
        trainer(folder.parent).fit("never")


def test_a_named_checkpoint_that_is_damaged_is_refused(folder: Path) -> None:
    (folder / _NEW / MANIFEST).unlink()
    with pytest.raises(ValueError, match=f"{_NEW} is damaged: {re.escape(MANIFEST)}; resume from an older one"):
        trainer(folder.parent).fit(str(folder / _NEW))


def test_a_checkpoint_damaged_while_training_is_not_trained_over(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = trainer(folder.parent)
    run._resume("auto")
    (folder / _NEW / MANIFEST).unlink()
    left = _bytes(folder / _NEW)
    with caplog.at_level(logging.WARNING):
        run.save()
    assert f"aside-{_NEW}-0" in caplog.text and _bytes(folder / f"aside-{_NEW}-0") == left
    assert not damaged_files(folder / _NEW)


def test_another_course_is_not_taken_for_the_one_that_was_named(folder: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    trainer(there, learning_rate=0.01, samples=48).fit()
    left = _bytes(folder / _NEW)
    trainer(folder.parent, learning_rate=0.01).fit(str(there / "checkpoints" / _OLD))
    assert _bytes(folder / f"aside-{_NEW}-0") == left
    assert _bytes(folder / _NEW)["line.safetensors"] != left["line.safetensors"]


def test_pruning_leaves_what_it_cannot_read(folder: Path) -> None:
    (folder / _OLD / MANIFEST).unlink()
    trainer(folder.parent, samples=96, save_every=8, keep=1).fit()
    assert [path.name for path in checkpoints(folder)] == [_OLD, "000000000096"]
