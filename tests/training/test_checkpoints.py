"""Checkpoints are whole, verified, kept as asked, and say what is wrong with them."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from regression import trainer, weights_of
from safetensors.torch import load_file

from ldm.training.checkpoints.checkpoint_folder import (
    checkpoints,
    damaged_files,
    newest_intact,
    read_state,
)
from ldm.training.checkpoints.lock import only_trainer


def _names(output: Path) -> list[int]:
    return [int(path.name) for path in checkpoints(output / "checkpoints")]


def _break(path: Path, name: str = "line.safetensors") -> None:
    file = path / name
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A training of 64 samples with checkpoints at 48 and 64."""
    trainer(tmp_path / "run", save_every=16).fit()
    return tmp_path / "run"


def test_checkpoint_restores_weights_averages_and_moments_exactly(tmp_path):
    first = trainer(tmp_path, ema_more=(100.0, 0.0))
    first.fit()
    again = trainer(tmp_path, ema_more=(100.0, 0.0))
    again._resume("auto")
    mine, theirs = first.trained_modules["line"], again.trained_modules["line"]
    pairs = [(mine.module, theirs.module)]
    pairs += [(a.module, b.module) for a, b in zip(mine.averages, theirs.averages, strict=True)]
    for a, b in pairs:
        assert all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())
    for a, b in zip(mine.module.parameters(), theirs.module.parameters(), strict=True):
        for moment, value in mine.optimizers[0].state[a].items():
            assert torch.equal(value, theirs.optimizers[0].state[b][moment]), moment
    assert again.progress == first.progress
    files = list((tmp_path / "checkpoints").rglob("*"))
    assert {file.suffix for file in files if file.is_file()} == {".safetensors", ".json", ".yaml", ""}


def test_keep_and_keep_every_and_latest(tmp_path):
    trainer(tmp_path, save_every=8, keep=2, keep_every=24).fit()
    assert _names(tmp_path) == [24, 48, 56, 64]
    assert (tmp_path / "checkpoints" / "latest").read_text().strip() == "000000000064"
    trainer(tmp_path, samples=80, save_every=8, keep=1).fit()
    assert _names(tmp_path) == [24, 48, 80]


def test_milestones_are_saved_without_save_every(tmp_path):
    trainer(tmp_path, keep=1, keep_every=32, samples=72).fit()
    assert _names(tmp_path) == [32, 64, 72]


def test_manifest_lists_every_file(finished):
    newest = checkpoints(finished / "checkpoints")[-1]
    listed = set(json.loads((newest / "manifest.json").read_text()))
    assert listed == {file.name for file in newest.iterdir()} - {"manifest.json"}


@pytest.mark.parametrize("name", ["line.safetensors", "line_ema.safetensors", "state.json", "manifest.json"])
def test_broken_checkpoint_is_said_and_the_one_before_is_used(name, finished, caplog):
    weights = load_file(checkpoints(finished / "checkpoints")[-1] / "line.safetensors")
    expected = {key: value.clone() for key, value in weights.items()}  # the file that is broken now was mapped
    _break(checkpoints(finished / "checkpoints")[-1], name)
    again = trainer(finished)
    with caplog.at_level(logging.WARNING):
        again.fit()
    assert f"000000000064 is damaged ({name}); trying the one before" in caplog.text
    assert "was set aside as aside-000000000064-0" in caplog.text
    assert all(torch.equal(value, expected[key]) for key, value in weights_of(again).items())
    assert _names(finished) == [48, 64] and not damaged_files(checkpoints(finished / "checkpoints")[-1])


def test_only_damaged_checkpoints_do_not_start_anew(finished):
    for path in checkpoints(finished / "checkpoints"):
        _break(path)
    with pytest.raises(ValueError, match=r"all 2 checkpoints in .* are damaged; restore one or use another output"):
        trainer(finished).fit()


def test_going_back_sets_the_later_course_aside(finished):
    back = checkpoints(finished / "checkpoints")[0]
    trainer(finished, learning_rate=0.01, samples=56).fit(str(back))
    assert _names(finished) == [48, 56]
    assert (finished / "checkpoints" / "aside-000000000064-0" / "manifest.json").is_file()
    assert (finished / "checkpoints" / "latest").read_text().strip() == "000000000056"


@pytest.mark.parametrize(
    ("resume", "error", "message"),
    [
        ("never", ValueError, "already holds a training; use resume=auto or another output"),
        ("nowhere/5", FileNotFoundError, "resume=nowhere/5 is no checkpoint"),
        ("broken", ValueError, r"000000000064 is damaged: line.safetensors; resume from an older one"),
    ],
)
def test_resume_refuses(resume, error, message, finished):
    if resume == "broken":
        newest = checkpoints(finished / "checkpoints")[-1]
        _break(newest)
        resume = str(newest)
    with pytest.raises(error, match=message):
        trainer(finished).fit(resume)


def test_config_of_another_model_is_named_by_tensor_and_setting(tmp_path):
    trainer(tmp_path, width=3).fit()
    with pytest.raises(ValueError, match="does not fit line") as error:
        trainer(tmp_path, width=5, samples=128).fit()
    message = str(error.value)
    assert "does not fit line: 1.bias is (3,) there and (5,) in this config" in message
    assert "it was trained with net.width=3 (not 5); use that or another output" in message


def test_config_of_another_task_is_named(finished):
    other = trainer(finished, samples=128)
    other.trained_modules["unet"] = other.trained_modules.pop("line")
    with pytest.raises(ValueError, match="it holds line, but this config trains unet"):
        other._resume("auto")


def test_another_optimizer_is_named(finished):
    with pytest.raises(ValueError, match=r"was trained with loop.optimizer=adamw, not muon; use that"):
        trainer(finished, optimizer="muon", samples=128).fit()


def test_new_average_starts_from_the_main_one(finished, caplog):
    again = trainer(finished, ema_more=(999.0,))
    with caplog.at_level(logging.WARNING):
        again.fit()
    assert "has no average of half-life 999; it starts from the main one" in caplog.text
    main, more = again.trained_modules["line"].averages
    assert all(torch.equal(a, b) for a, b in zip(main.module.parameters(), more.module.parameters(), strict=True))


def test_export_takes_the_first_average_by_default(tmp_path):
    run = trainer(tmp_path, ema_half_life=1000.0, ema_more=(2.0,), export_raw=True)
    run.fit()
    module_name = run.trained_modules["line"]

    def holds(folder: str, module: torch.nn.Module) -> bool:
        found = load_file(tmp_path / folder / "line.safetensors")
        return all(torch.equal(value, found[key]) for key, value in module.state_dict().items())

    assert holds("export", module_name.averages[0].module) and holds("export_raw", module_name.module)
    assert not holds("export", module_name.module)
    trainer(tmp_path, ema_half_life=1000.0, ema_more=(2.0,), export_half_life=2.0).fit()
    assert holds("export", module_name.averages[1].module) and not holds("export", module_name.averages[0].module)


def test_several_averages_are_each_as_if_alone(tmp_path):
    together = trainer(tmp_path / "all", ema_half_life=8.0, ema_more=(64.0,))
    together.fit()
    for number, half_life in enumerate((8.0, 64.0)):
        alone = trainer(tmp_path / str(number), ema_half_life=half_life)
        alone.fit()
        mine, theirs = (
            together.trained_modules["line"].averages[number].module,
            alone.trained_modules["line"].averages[0].module,
        )
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))


def test_disk_that_fills_up_in_a_save_costs_one_checkpoint(tmp_path, nearly_full_disk, caplog):
    whole = trainer(tmp_path / "whole", samples=64, log_every=0)  # what it prints may go to a file too
    whole.fit()
    run = trainer(tmp_path / "run", samples=32, save_every=32)
    run.fit()
    again = trainer(tmp_path / "run", save_every=16, log_every=0)
    with nearly_full_disk(1000), caplog.at_level(logging.WARNING), pytest.raises(OSError, match="written") as error:
        again.fit()
    assert "the checkpoint of 48 samples cannot be written" in caplog.text  # said, and gone on
    assert "the training goes on and tries again in a minute" in caplog.text
    message = str(error.value)
    assert "the checkpoint of 64 samples cannot be written" in message
    assert "000000000032 is whole; free some space and run the same command again" in message
    assert _names(tmp_path / "run") == [32] and not list((tmp_path / "run" / "checkpoints").glob(".*"))
    later = trainer(tmp_path / "run")
    later.fit()
    expected = weights_of(whole)
    assert all(torch.equal(value, expected[key]) for key, value in weights_of(later).items())


def test_space_for_all_checkpoints_is_checked_before_the_first_step(tmp_path):
    with pytest.raises(OSError, match="checkpoints of") as error:
        trainer(tmp_path, samples=10**15, keep=10**13).fit()
    message = str(error.value)
    assert "10,000,000,000,001 checkpoints of" in message and "are free; " in message
    assert "free some space, lower loop.keep or raise loop.keep_every" in message
    assert not (tmp_path / "stats.jsonl").exists()


def test_folder_is_trained_by_one_process(tmp_path):
    with only_trainer(tmp_path), pytest.raises(ValueError, match="is being trained by another process"):
        trainer(tmp_path).fit()
    trainer(tmp_path).fit()


def test_what_a_kill_left_is_cleared_away(finished):
    hidden = finished / "checkpoints" / ".000000000080.1234.tmp"
    shutil.copytree(checkpoints(finished / "checkpoints")[-1], hidden)
    unfinished = finished / "checkpoints" / "000000000099"
    unfinished.mkdir()
    (unfinished / "line.safetensors").write_bytes(b"half")
    assert newest_intact(finished / "checkpoints").name == "000000000064"
    trainer(finished).fit()
    assert not hidden.exists()


def test_resolved_config_lies_beside_the_run(tmp_path):
    trainer(tmp_path).fit()
    assert OmegaConf.load(tmp_path / "config.yaml").task == "line"
    assert read_state(checkpoints(tmp_path / "checkpoints")[-1])["samples_seen"] == 64
