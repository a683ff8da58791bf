"""Where pictures go: nothing is overwritten in a folder, also not by processes that write into it at once."""

import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from checkout import ROOT
from PIL import Image

from ldm.cli.output import Destination
from ldm.generation.from_picture import recipe_in
from ldm.generation.recipe import Recipe
from ldm.io.disk.files import write_new_file

SPAWN = multiprocessing.get_context("spawn")
_EACH = 20

RECIPE = Recipe(
    prompt="x", negative_prompt="", seed=5, num_inference_steps=1, guidance_scale=1.0, guidance_rescale=0.0,
    sampler="ddim", schedule="trailing", width=4, height=4, model="emoji", dtype="float32", device="cpu", version="0",
)  # fmt: skip


def _save_many(folder: str, writer: int, start) -> None:
    destination = Destination(folder, several=True)
    start.wait(60)
    for number in range(_EACH):
        destination.save_grid([Image.new("RGB", (4, 4), (writer, number, 0))], RECIPE)


def _colours(folder: Path) -> list[tuple[int, int, int]]:
    return sorted(Image.open(path).getpixel((0, 0)) for path in folder.iterdir())


@pytest.mark.slow
def test_processes_that_write_into_one_folder_lose_nothing(tmp_path: Path) -> None:
    start = SPAWN.Barrier(4)
    writers = [SPAWN.Process(target=_save_many, args=(str(tmp_path), writer, start)) for writer in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    assert _colours(tmp_path) == [(writer, number, 0) for writer in range(4) for number in range(_EACH)]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"x-5-grid.png", *(f"x-5-grid-{copy}.png" for copy in range(2, 4 * _EACH + 1))}


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_name_that_is_taken_meanwhile_is_left_alone(tmp_path: Path, links: bool, monkeypatch) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links here")))
    lexists = os.path.lexists

    def late(path) -> bool:
        there = lexists(path)
        first.write_bytes(b"another's")  # just after it was looked for
        return there

    monkeypatch.setattr(os.path, "lexists", late)
    assert write_new_file([first, second], b"ours") == second
    assert first.read_bytes() == b"another's" and second.read_bytes() == b"ours"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_link_that_leads_nowhere_is_a_name_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "nowhere")
    assert write_new_file([tmp_path / "a", tmp_path / "b"], b"ours") == tmp_path / "b"
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write_new_file([tmp_path / "file" / "a"], b"ours")


def test_a_named_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    for colour in ("red", "blue"):
        Destination(str(path), several=True).save_grid([Image.new("RGB", (4, 4), colour)], RECIPE)
    assert [file.name for file in tmp_path.iterdir()] == ["x-5-grid.png"]
    assert Image.open(tmp_path / "x-5-grid.png").getpixel((0, 0)) == (0, 0, 255)


@pytest.mark.skipif(os.name == "nt", reason="kills by a signal")
def test_a_kill_before_the_name_is_given_leaves_none(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from ldm.io.disk.files import write_new_file\n"
        "os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_new_file([Path(sys.argv[1])], b'ours')"
    )
    path = tmp_path / "x.png"
    killed = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL and not path.exists()
    assert write_new_file([path], b"whole") == path and [file.name for file in tmp_path.iterdir()] == ["x.png"]


def test_a_grid_carries_the_recipe_of_all_its_pictures(tmp_path: Path) -> None:
    path = Destination(str(tmp_path), several=True).save_grid([Image.new("RGB", (4, 4))] * 3, RECIPE)
    assert recipe_in(path) == replace(RECIPE, num_images_per_prompt=3)
