"""A folder with every kind of bad file: trainings go on, each file is listed once with its reason, check finds all."""

import io
import json
import logging
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ldm.cli import app
from ldm.data.check import check
from ldm.data.pictures.bad_pictures import BadPictures
from ldm.data.pictures.dataset import PictureDataset
from ldm.data.sources.open_source import SourceConfig, open_source
from ldm.data.sources.webdataset import Sample, write_shard

SIZE, GOOD = 8, 12
BAD = {
    "cut.jpg": "truncated",
    "empty.png": "the file is empty",
    "letter.webp": "no picture format",
    "missing.png": "metadata.jsonl line 1 names it",
}


def encoded(seed: int, kind: str = "PNG", size: int = 2 * SIZE) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for i in range(GOOD):
        (folder / f"good{i:02}.png").write_bytes(encoded(i))
        (folder / f"good{i:02}.txt").write_text(f"good {i}")
    (folder / "cut.jpg").write_bytes(encoded(50, "JPEG", 64)[:700])
    (folder / "empty.png").write_bytes(b"")
    (folder / "letter.webp").write_bytes(b"Dear picture")
    for name in BAD:
        (folder / name).with_suffix(".txt").write_text(f"never {name}")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "missing.png"}) + "\n")
    return folder


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def items(dataset: PictureDataset) -> list[dict]:
    return [dataset.item(i, generator(i)) for i in range(len(dataset))]


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("mode", ["true", "false"])
def test_bad_files_have_stand_ins_and_are_listed_once(mixed: Path, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    listed = mixed.parent / "run" / "bad_pictures.jsonl"
    caplog.set_level(logging.WARNING)
    dataset = PictureDataset(mixed, SIZE, cache_pictures=mode, bad_pictures=BadPictures(listed))
    assert len(dataset) == GOOD + len(BAD)
    truth = {f"good {i}": encoded(i) for i in range(GOOD)}
    for item in items(dataset) + items(dataset):
        picture = Image.open(io.BytesIO(truth[item["caption"]])).resize((SIZE, SIZE), Image.Resampling.BOX)
        assert np.allclose((item["image"].permute(1, 2, 0).numpy() + 1) * 127.5, np.asarray(picture), atol=1e-4)
    again = PictureDataset(mixed, SIZE, cache_pictures=mode, bad_pictures=BadPictures(listed))  # a resumed training
    items(again)
    found = {Path(line["picture"]).name: line["reason"] for line in lines(listed)}
    assert len(lines(listed)) == len(BAD) == len(found)
    assert all(reason in found[name] for name, reason in BAD.items())
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == len(BAD) and all(any(name in each for each in warned) for name in BAD)


@pytest.mark.parametrize("settings", [{}, {"crop_fraction": 0.5}])
def test_decoded_on_the_fly_or_once_the_items_are_the_same(mixed: Path, settings: dict) -> None:
    cached, live = (PictureDataset(mixed, SIZE, cache_pictures=mode, **settings) for mode in ("true", "false"))
    for one, other in zip(items(cached), items(live), strict=True):
        assert torch.equal(one["image"], other["image"]) and torch.equal(one["sizes"], other["sizes"])
        assert (one["caption"], one["index"]) == (other["caption"], other["index"])
    assert cached.fingerprint == live.fingerprint
    backwards = PictureDataset(mixed, SIZE, cache_pictures="false", **settings)  # what was met before has no effect
    for i in reversed(range(len(live))):
        assert torch.equal(backwards.item(i, generator(i))["image"], cached.item(i, generator(i))["image"])
    good = [i for i in range(len(live)) if "good" in live.metadata(i)["captions"][0]]
    assert np.array_equal(cached.original_sizes[good], live.original_sizes[good])
    assert (live.original_sizes[good] == 2 * SIZE).all()


def test_auto_caches_only_what_has_room(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ldm.data.pictures import frames

    monkeypatch.setattr(frames, "_LARGEST_CACHE", 0)
    PictureDataset(mixed, SIZE)
    assert not list(mixed.glob(".cache/pictures-*"))
    monkeypatch.undo()
    PictureDataset(mixed, SIZE)
    assert len(list(mixed.glob(".cache/pictures-*"))) == 1


def _meet(file: Path) -> None:
    listed = BadPictures(file)
    for number in range(200):
        listed.report(f"picture {number}", "torn")


def test_processes_share_the_list(tmp_path: Path) -> None:
    file = tmp_path / "bad_pictures.jsonl"
    file.write_text('{"picture": "picture 0", "reason": "torn"}\n{"picture": "pic')  # a kill left half a line
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_meet, args=(file,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    whole = [line for line in file.read_text().splitlines() if line != '{"picture": "pic']
    assert sorted(json.loads(line)["picture"] for line in whole) == sorted(f"picture {n}" for n in range(200))


@pytest.mark.parametrize("mode", ["true", "false"])
def test_nothing_but_bad_pictures_ends_the_run(tmp_path: Path, mode: str) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"")
        (tmp_path / f"{i}.txt").write_text("x")
    with pytest.raises(
        ValueError, match=r"0.png.* can(not)? be used.*; run `ldm data check`|can be used; .*0.png: the"
    ):
        PictureDataset(tmp_path, SIZE, cache_pictures=mode).item(0, generator(0))


def test_check_lists_the_bad_files_of_a_folder_and_of_shards(mixed: Path) -> None:
    found = {Path(problem.place).name: problem.what for problem in check(SourceConfig(str(mixed)))}
    assert found.keys() == BAD.keys()
    assert all(reason in found[name] for name, reason in BAD.items())
    source = open_source([SourceConfig(str(mixed))])
    present = [i for i in range(len(source)) if "missing" not in source.key(i)]
    samples = [Sample(Path(source.key(i)).stem, source.picture(i), source.metadata(i)) for i in present]
    write_shard(mixed.parent / "shards" / "0.tar", samples)
    keys = {problem.key for problem in check(mixed.parent / "shards")}
    assert keys == {Path(name).stem for name in BAD} - {"missing"}


def test_check_has_exit_code_1_and_reads_the_sources_of_a_config(mixed: Path, tmp_path: Path) -> None:
    bad = CliRunner().invoke(app, ["data", "check", str(mixed)])
    assert bad.exit_code == 1 and "empty.png: unreadable picture (the file is empty)" in bad.stdout
    config = tmp_path / "run.yaml"
    config.write_text(f"task: clip\noutput: x\ndata:\n  sources:\n  - path: {mixed}\n  - path: {mixed}\n")
    twice = CliRunner().invoke(app, ["data", "check", str(config)])
    assert twice.exit_code == 1 and twice.stdout.count("empty.png") == 2
    for name in BAD:
        (mixed / name).unlink(missing_ok=True)
    (mixed / "metadata.jsonl").unlink()
    fine = CliRunner().invoke(app, ["data", "check", str(mixed)])
    assert fine.exit_code == 0 and "no problems" in fine.stdout
    for file in mixed.glob("*.txt"):
        file.unlink()
    assert CliRunner().invoke(app, ["data", "check", str(mixed)]).exit_code == 0  # an autoencoder needs no words
