"""Of a module that is partly frozen, only what is trained is averaged and saved; what is exported is whole."""

from dataclasses import replace
from pathlib import Path

import torch
from regression import QUICK, Regression, trainer, weights_of
from safetensors.torch import load_file, save_file
from torch import nn

from ldm.training.checkpoints.checkpoint_folder import MANIFEST, checkpoints, write_manifest
from ldm.training.checkpoints.disk_space import checkpoint_bytes
from ldm.training.optimization.trained_module import TrainedModule

_FROZEN = {"1.weight", "1.bias"}


class _Frozen(Regression):
    """The hidden layer, more than nine tenths of the weights, is frozen."""

    def __init__(self) -> None:
        super().__init__(width=64)
        self.trained_modules["line"][1].requires_grad_(False)


def _files(folder: Path) -> dict[str, bytes]:
    newest = checkpoints(folder / "checkpoints")[-1]
    return {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}


def test_checkpoints_hold_what_is_trained_and_the_export_is_whole(tmp_path: Path) -> None:
    run = trainer(tmp_path, objective=_Frozen(), ema_more=(100.0,))
    module = run.trained_modules["line"].module
    before, names = weights_of(run), set(module.state_dict())
    frozen = sum(p.numel() for p in module.parameters() if not p.requires_grad)
    assert frozen > 0.75 * sum(p.numel() for p in module.parameters())
    run.fit()
    newest = checkpoints(tmp_path / "checkpoints")[-1]
    for name in ("line", "line_ema", "line_ema_100"):
        assert set(load_file(newest / f"{name}.safetensors")) == names - _FROZEN
    exported = load_file(tmp_path / "export" / "line.safetensors")
    assert set(exported) == names
    assert all(torch.equal(exported[name], before[name]) for name in _FROZEN)
    assert not torch.equal(exported["2.weight"], before["2.weight"])


def test_averages_share_what_is_frozen_and_nothing_else(tmp_path: Path) -> None:
    built = TrainedModule.build("line", _Frozen().trained_modules["line"], replace(QUICK, ema_more=(100.0,)))
    own = dict(built.module.named_parameters()) | dict(built.module.named_buffers())
    for average in built.averages:
        theirs = dict(average.module.named_parameters()) | dict(average.module.named_buffers())
        assert {name for name in own if own[name].data_ptr() == theirs[name].data_ptr()} == _FROZEN


def test_a_resume_is_bit_identical(tmp_path: Path) -> None:
    trainer(tmp_path / "half", objective=_Frozen(), samples=32, lr_shape="constant").fit()
    whole = trainer(tmp_path / "whole", objective=_Frozen(), lr_shape="constant")
    whole.fit()
    rest = trainer(tmp_path / "half", objective=_Frozen(), lr_shape="constant")
    rest.fit()
    assert _files(tmp_path / "half") == _files(tmp_path / "whole")
    assert all(torch.equal(value, weights_of(rest)[name]) for name, value in weights_of(whole).items())


def test_checkpoints_that_hold_everything_still_load(tmp_path: Path) -> None:
    first = trainer(tmp_path, objective=_Frozen())
    first.fit()
    (newest,), expected = checkpoints(tmp_path / "checkpoints"), weights_of(first)
    built = first.trained_modules["line"]
    for name, module in (("line", built.module), ("line_ema", built.averages[0].module)):
        everything = {key: value.detach().clone() for key, value in module.state_dict().items()}
        (newest / f"{name}.safetensors").unlink()
        save_file(everything, newest / f"{name}.safetensors")
    (newest / MANIFEST).unlink()
    write_manifest(newest)
    again = trainer(tmp_path, objective=_Frozen())
    with torch.no_grad():
        for parameter in again.trained_modules["line"].module.parameters():
            parameter.zero_()
    again._resume("auto")
    assert all(torch.equal(value, expected[key]) for key, value in weights_of(again).items())


def test_the_disk_holds_what_was_predicted(tmp_path: Path) -> None:
    run = trainer(tmp_path, objective=_Frozen())
    module: nn.Module = run.trained_modules["line"].module
    run.fit()
    written = sum(len(content) for content in _files(tmp_path).values())
    counters = 8 + 8 * 2 + 4 * 4  # batch norm's, in two files, and the optimizer's steps
    headers = 3 * 1024
    assert written - headers - counters < checkpoint_bytes(module, run.config) < written
