"""Evaluation of any pictures with captions, and the check for copies on features chosen by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ldm import LatentDiffusion
from ldm.cli import app
from ldm.evaluation.metrics.features import unit_length
from ldm.evaluation.pictures import evaluate_pictures, likeness


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of 48 px with captions beside them."""
    folder = tmp_path_factory.mktemp("own")
    random = np.random.default_rng(0)
    for number in range(40):
        coarse = Image.fromarray(random.integers(0, 255, (4, 4, 3), dtype=np.uint8))
        coarse.resize((48, 48), Image.Resampling.NEAREST).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"pattern {number}")
    return folder


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_folder, device="cpu")


def _random(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 64))


def test_copies_are_beyond_real_pictures_and_strangers_are_not():
    training = _random(0, 200)
    copies = likeness(training[50:90], training[:40], training, own_first=True)
    strangers = likeness(_random(1, 40), training[:40], training, own_first=True)
    assert copies.generated.value == pytest.approx(1)
    assert copies.beyond_real.share == 1
    assert strangers.beyond_real.share < 0.3
    assert strangers.generated.value == pytest.approx(strangers.real.value, abs=0.05)


def test_a_real_picture_is_not_compared_with_itself():
    training = _random(0, 50)
    found = likeness(_random(1, 10), training[:10], training, own_first=True)
    cosines = unit_length(training[:10]) @ unit_length(training).T
    oracle = [np.delete(row, i).max() for i, row in enumerate(cosines)]
    assert found.real.value == pytest.approx(np.mean(oracle))
    assert likeness(training[:3], training[:3], training, own_first=False).real.value == pytest.approx(1)


def test_own_pictures_are_measured(folder: Path, model: LatentDiffusion, tmp_path: Path):
    scores = evaluate_pictures(model, folder, n=10, steps=1, folder=tmp_path)
    assert {name: part.pictures for name, part in scores.parts.items()} == {"train": 10, "held_out": 4}
    train = scores.parts["train"]
    assert train.sharpness.size == min(48, model.parts.defaults.width)
    assert train.sharpness.edge.n == 10
    assert train.likeness.looked_through == 36
    assert (scores.distance.pictures, scores.distance.reference) == (7, 29)
    assert scores.distance.generated > scores.distance.real > 0
    assert json.loads((tmp_path / "scores.json").read_text()) == scores.to_dict()
    assert {path.name for path in tmp_path.glob("*.png")} == {"train.png", "held_out.png", "nearest.png"}
    table = scores.to_table()
    assert max(map(len, table.splitlines())) <= max(80, len(str(tmp_path)) + 25)
    assert "N = 7 against 29 real" in table and "Nearest of 36 training pictures" in table


def test_the_command_line_measures_a_plain_folder(folder: Path, tiny_folder: Path, tmp_path: Path):
    command = ["eval", str(tiny_folder), "--data", str(folder), "--quick", "-n", "2", "--steps", "1", "--json"]
    result = CliRunner().invoke(app, [*command, "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["quick"] and found["distance"] is None
    assert found["parts"]["held_out"]["pictures"] == 2
