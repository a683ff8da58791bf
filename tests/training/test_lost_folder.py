"""A run folder that is moved, removed or taken over while it is trained is not made anew by the training."""

import shutil
from pathlib import Path

import pytest
from regression import Regression, trainer

from ldm.training.checkpoints.checkpoint_folder import checkpoints, damaged_files


class _Eventful(Regression):
    """Something happens to the run folder in the step from `at`, or in a preview."""

    def __init__(self, at: int, event) -> None:
        super().__init__()
        self._at, self._event = at, event

    def loss(self, module_name, batch, generators, samples_seen):
        if samples_seen == self._at:
            self._event()
        return super().loss(module_name, batch, generators, samples_seen)

    def preview(self, batch, modules):
        if self._at < 0:
            self._event()
        return {"line": batch["x"].new_zeros(1, 3, 4, 4)}


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("at", [24, 56, -1], ids=["midst", "last", "preview"])
@pytest.mark.parametrize("kind", ["moved", "removed", "taken over", "lock replaced"])
def test_the_training_stops_with_a_line_and_writes_nothing(kind: str, at: int, tmp_path: Path) -> None:
    run, away, left = tmp_path / "run", tmp_path / "away", {}

    def happen() -> None:
        if kind == "lock replaced":
            (run / ".lock").unlink()
            (run / ".lock").touch()
        elif kind == "removed":
            shutil.rmtree(run)
        else:
            run.rename(away)
        if kind == "taken over":
            (run / "tensorboard" / "ldm").mkdir(parents=True)
            (run / ".lock").write_text("")
        left.update(_contents(run))

    settings = {"save_every": 16, "preview_every": 32, "trackers": ("tensorboard",)}
    with pytest.raises(ValueError, match=r"run was moved, removed or taken over while it was trained; .*") as error:
        trainer(run, objective=_Eventful(at, happen), **settings).fit()
    assert "\n" not in str(error.value)
    assert run.exists() == (kind in ("taken over", "lock replaced"))
    assert _contents(run) == left
    if kind in ("moved", "taken over"):
        saved = checkpoints(away / "checkpoints")
        assert saved and not any(damaged_files(path) for path in saved)


def test_the_lock_is_held_again_by_the_next_training(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.fit()
    (tmp_path / ".lock").unlink()
    run.save()  # by hand, outside of `fit`
    trainer(tmp_path, samples=96).fit()
