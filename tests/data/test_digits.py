"""The digits: equal bytes for equal seeds, also after a kill; nobody in both splits; captions that say the digit."""

import hashlib
import io
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT
from PIL import Image
from sklearn.datasets import load_digits

from ldm.data.check import check
from ldm.data.recipes.digits import WORDS, build_digits
from ldm.data.sources.webdataset import Sample, read_shard

# Builds, and is killed in the middle of the first shard.
KILLED_BUILD = """
import os, signal, sys
from pathlib import Path
from PIL import Image
from ldm.data.recipes.digits import build_digits

saved, save = [], Image.Image.save
def count_and_save(picture, *arguments, **options):
    saved.append(0)
    if len(saved) == 300:
        os.kill(os.getpid(), signal.SIGKILL)
    save(picture, *arguments, **options)

Image.Image.save = count_and_save
build_digits(Path(sys.argv[1]), 8)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    build_digits(folder, 8)
    return folder


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read(folder: Path, split: str) -> list[Sample]:
    return list(read_shard(folder / split / "000000.tar"))


def test_killed_build_ends_in_the_same_bytes(built: Path, tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED_BUILD, str(tmp_path)], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith(".")]
    build_digits(tmp_path, 8)
    assert contents(tmp_path) == contents(built)


def test_another_seed_is_another_order_but_holds_out_the_same(built: Path, tmp_path: Path) -> None:
    build_digits(tmp_path, 8, seed=1)
    assert contents(tmp_path)["train/000000.tar"] != contents(built)["train/000000.tar"]
    pictures = [{sample.picture for sample in read(folder, "held_out")} for folder in (built, tmp_path)]
    assert pictures[0] == pictures[1]


def test_every_digit_is_in_one_split(built: Path) -> None:
    train, held_out = read(built, "train"), read(built, "held_out")
    assert len(train) + len(held_out) == 1797
    assert 0.08 < len(held_out) / 1797 < 0.12
    assert not {sample.picture for sample in train} & {sample.picture for sample in held_out}
    assert {(sample.meta or {})["label"] for sample in held_out} == set(range(10))


def test_pictures_are_the_digits_of_their_label(built: Path) -> None:
    digits = load_digits()
    rows = zip(digits.images, digits.target, strict=True)
    known = {np.rint(image * 255 / 16).astype(np.uint8).tobytes(): int(label) for image, label in rows}
    for sample in read(built, "held_out"):
        pixels = np.asarray(Image.open(io.BytesIO(sample.picture or b"")))
        assert known[pixels[..., 0].tobytes()] == (sample.meta or {})["label"]
        assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()


def test_captions_say_the_digit_and_no_other(built: Path) -> None:
    for sample in read(built, "train")[:200]:
        meta = sample.meta or {}
        for caption in meta["captions"]:
            said = [number for number, word in enumerate(WORDS) if word in caption.split() or str(number) in caption]
            assert said == [meta["label"]]


def test_pictures_have_the_requested_size(tmp_path: Path) -> None:
    manifest = build_digits(tmp_path, 12)
    assert Image.open(io.BytesIO(read(tmp_path, "held_out")[0].picture or b"")).size == (12, 12)
    assert manifest["counts"]["held_out"]["pictures"] == len(read(tmp_path, "held_out"))
    with pytest.raises(ValueError, match="size=7 is less than 8"):
        build_digits(tmp_path, 7)


def test_nothing_is_wrong_and_the_card_says_whence(built: Path) -> None:
    assert check(built) == []
    card = (built / "card.md").read_text()
    assert "CC BY 4.0" in card and "load_digits" in card and "Held out: 10%" in card
