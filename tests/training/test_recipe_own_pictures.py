"""The three commands at the top of docs/training.md, on a folder of ten pictures."""

import re
import shlex
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


def test_three_commands_lead_from_a_folder_to_a_picture(pictures: Path, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "training.md").read_text()
    block = re.search(r"## From a folder of pictures to your own model.*?```sh\n(.*?)```", text, re.S)
    assert block is not None
    commands = [shlex.split(line, comments=True) for line in block[1].strip().splitlines()]
    assert [command[0] for command in commands] == ["ldm", "ldm", "ldm"]
    for command in commands:
        place = {"PICTURES": str(pictures), "data.folder=PICTURES": f"data.folder={pictures}"}
        place["runs/own/export"] = str(tmp_path / "own" / "export")
        arguments = [place.get(word, word) for word in command[1:]]
        if arguments[0] == "train":
            arguments += [f"output={tmp_path / 'own'}", *SHORT]
        if arguments[0] == "generate":
            arguments += ["--steps", "2", "--output", str(tmp_path / "drawn")]
        script = "from ldm.cli import app; app()"
        done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode in ((0, 1) if arguments[0] == "data" else (0,)), done.stderr  # one colour: near-blank
    assert (tmp_path / "own" / "export" / "unet").is_dir() and list((tmp_path / "drawn").glob("*.png"))
    assert "validation/loss" in (tmp_path / "own" / "stats.jsonl").read_text()
