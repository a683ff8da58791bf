"""The three commands at the top of docs/training.md, on a folder of ten pictures, with an installed wheel."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT
from PIL import Image

pytestmark = pytest.mark.slow

SHORT = ["loop.samples=8", "loop.batch_size=4", "loop.validate_every=8", "loop.previews=1", "loop.preview_every=0"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(10):
        Image.new("RGB", (80, 70), (25 * number, 90, 200)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a square, 3d style")
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a wheel of this checkout installs, and nothing else of the checkout."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("ldm", "autoencoder", "conditioning", "configs", "docs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    return target


def test_three_commands_lead_from_a_folder_to_a_picture(pictures: Path, installed: Path, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "training.md").read_text()
    block = re.search(r"## From a folder of pictures to your own model.*?```sh\n(.*?)```", text, re.S)
    assert block is not None
    commands = [shlex.split(line, comments=True) for line in block[1].strip().splitlines()]
    assert [command[0] for command in commands] == ["ldm", "ldm", "ldm"]
    (tmp_path / "empty").mkdir()
    for command in commands:
        place = {"PICTURES": str(pictures), "data.folder=PICTURES": f"data.folder={pictures}"}
        place["runs/own"] = str(tmp_path / "own")
        arguments = [place.get(word, word) for word in command[1:]]
        if arguments[0] == "train":
            arguments += [f"output={tmp_path / 'own'}", *SHORT]
        if arguments[0] == "generate":
            arguments += ["--steps", "2", "--output", str(tmp_path / "drawn")]
        done = _ldm(installed, arguments, tmp_path / "empty")
        assert done.returncode in ((0, 1) if arguments[0] == "data" else (0,)), done.stderr  # one colour: near-blank
    scheduler = json.loads((tmp_path / "own" / "export" / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["_class_name"] == "DPMSolverMultistepScheduler"  # diffusion.sampler of the recipe
    assert (tmp_path / "own" / "export" / "unet").is_dir() and list((tmp_path / "drawn").glob("*.png"))
    assert "validation/loss" in (tmp_path / "own" / "stats.jsonl").read_text()


def test_a_training_is_a_model_and_its_checkpoints_can_be(pictures: Path, installed: Path, tmp_path: Path) -> None:
    train = ["train", "own_pictures", f"data.folder={pictures}", "output=own", *SHORT, "loop.minutes=0.0001"]
    ended = _ldm(installed, train, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "the model is in own/export" in ended.stdout and "--model own" in ended.stdout
    generate = ["generate", "a fox, 3d style", "--steps", "1", "--model", "own"]
    assert _ldm(installed, generate, tmp_path).returncode == 0
    shutil.rmtree(tmp_path / "own" / "export")
    made = _ldm(installed, generate, tmp_path)
    assert made.returncode == 0 and "own had no model yet; own/export is of its averaged weights" in made.stderr
    shutil.rmtree(tmp_path / "own" / "export")
    exported = _ldm(installed, ["train", "export", "own"], tmp_path)
    assert exported.returncode == 0 and "own/export" in exported.stdout, exported.stderr
    assert _ldm(installed, generate, tmp_path).returncode == 0
    missing = _ldm(installed, ["train", "export", "own", "--samples", "99"], tmp_path)
    assert missing.returncode == 1 and "has no checkpoint of 99 samples; there are 4" in missing.stderr


def test_recipes_are_listed_shown_and_copied(installed: Path, tmp_path: Path) -> None:
    listed = _ldm(installed, ["recipes", "list"], tmp_path).stdout.splitlines()
    names = {
        path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in (ROOT / "configs").rglob("*.yaml")
    }
    assert {line.split()[0] for line in listed} == {name for name in names if not name.startswith("accelerate/")}
    assert all(len(line.split()) > 3 for line in listed)  # each says what it is
    shown = _ldm(installed, ["recipes", "show", "emoji/ldm"], tmp_path).stdout
    assert shown == (ROOT / "configs" / "emoji" / "ldm.yaml").read_text()
    assert _ldm(installed, ["recipes", "copy", "emoji/ldm"], tmp_path).returncode == 0
    assert (tmp_path / "ldm.yaml").read_text() == shown
    again = _ldm(installed, ["recipes", "copy", "emoji/ldm"], tmp_path)
    assert again.returncode == 1 and "ldm.yaml is there already" in again.stderr
    unknown = _ldm(installed, ["train", "own_picture"], tmp_path)
    assert unknown.returncode == 1 and "did you mean 'own_pictures'" in unknown.stderr


def _ldm(site: Path, arguments: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run `ldm` as it was installed, from another folder."""
    script = "from ldm.cli import app; app()"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
