"""Random access to pictures: crops are slices, wholes are means, draws belong to the generator, the cache is whole."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_shards import (
    COUNT,
    SIZE,
    folder,  # noqa: F401  (a fixture)
    generator,
    make_sample,
    truth,
)

from ldm.data.pictures.dataset import PictureDataset
from ldm.data.sources.webdataset import Sample, write_shard
from ldm.training.stages.datasets import DataConfig, open_pictures


def test_crops_are_slices_of_the_picture(folder: Path) -> None:
    dataset = PictureDataset(folder, SIZE, crop_fraction=1.0)
    places = set()
    for seed in range(40):
        image = dataset.item(2, generator(seed))["image"]
        found = [
            (top, left)
            for top in range(SIZE + 1)
            for left in range(SIZE + 1)
            if torch.equal(image, truth(2)[:, top : top + SIZE, left : left + SIZE])
        ]
        assert len(found) == 1
        places.update(found)
    rows, columns = zip(*places, strict=True)
    assert {0, SIZE} <= set(rows) and {0, SIZE} <= set(columns)


def test_wholes_are_the_mean_of_two_by_two(folder: Path) -> None:
    mean = torch.nn.functional.avg_pool2d(truth(3), 2)
    exact = PictureDataset(folder, SIZE, crop_fraction=1e-9)
    torch.testing.assert_close(exact.item(3, generator(0))["image"], mean, atol=1e-6, rtol=0)
    in_bytes = PictureDataset(folder, SIZE)  # rounded once for the rows and once for the columns
    torch.testing.assert_close(in_bytes.item(3, generator(0))["image"], mean, atol=1.01 / 127.5, rtol=0)


def test_pictures_of_the_size_are_exact(folder: Path) -> None:
    dataset = PictureDataset(folder, 2 * SIZE)
    assert len(dataset) == COUNT
    for index in range(COUNT):
        assert torch.equal(dataset.image(index), truth(index))


def test_crops_come_in_their_share(folder: Path) -> None:
    dataset = PictureDataset(folder, SIZE, crop_fraction=0.6)
    whole = dataset.image(1)
    cropped = [not torch.equal(dataset.item(1, generator(seed))["image"], whole) for seed in range(300)]
    assert abs(np.mean(cropped) - 0.6) < 0.08


def test_equal_generators_give_equal_items(folder: Path) -> None:
    dataset = PictureDataset(folder, SIZE, crop_fraction=0.5)
    for seed in range(10):
        first, second = (dataset.item(4, generator(seed)) for _ in range(2))
        assert torch.equal(first["image"], second["image"]) and first["caption"] == second["caption"]
        assert dataset.words(4, generator(seed))["caption"] == first["caption"]


def test_items_use_as_many_draws_whether_cropped_or_not(folder: Path) -> None:
    states = set()
    for share in (0.0, 0.5, 1.0):
        draws = generator(3)
        PictureDataset(folder, SIZE, crop_fraction=share).item(0, draws)
        states.add(bytes(draws.get_state().tolist()))
    assert len(states) == 1


def test_all_captions_are_drawn(folder: Path) -> None:
    dataset = PictureDataset(folder, SIZE)
    draws = generator(0)
    seen = {dataset.item(0, draws)["caption"] for _ in range(200)}
    assert seen == {f"picture 0, caption {i}" for i in range(8)}
    assert len(dataset.all_captions()) == 8 * COUNT and seen < set(dataset.all_captions())


def test_labels_weights_and_facts_come_along(folder: Path) -> None:
    dataset = PictureDataset(folder, SIZE)
    item = dataset.item(5, generator(0))
    assert (item["label"], item["index"]) == (5, 5) and item["image"].shape == (3, SIZE, SIZE)
    assert dataset.weights.tolist() == [1, 1, 1, 1, 0.5, 1]
    assert dataset.metadata(4)["weight"] == 0.5


def test_pictures_without_words_or_pixels_are_passed_over(tmp_path: Path) -> None:
    alone = [Sample("000001", make_sample(1).picture, None), Sample("000002", None, {"captions": ["x"]})]
    silent = Sample("000003", make_sample(3).picture, {"captions": []})
    write_shard(tmp_path / "train" / "000000.tar", [make_sample(0), *alone, silent, make_sample(4)])
    dataset = PictureDataset(tmp_path, SIZE)
    assert [dataset.metadata(i)["label"] for i in range(len(dataset))] == [0, 4]


def test_shards_are_decoded_once_and_again_when_they_change(folder: Path) -> None:
    first = PictureDataset(folder, SIZE)
    cache = folder / ".cache" / first.fingerprint
    before = (cache / "images.npy").stat().st_mtime_ns
    assert PictureDataset(folder, SIZE).fingerprint == first.fingerprint
    assert (cache / "images.npy").stat().st_mtime_ns == before
    write_shard(folder / "train" / "000002.tar", [make_sample(9)])
    changed = PictureDataset(folder, SIZE)
    assert changed.fingerprint != first.fingerprint and len(changed) == COUNT + 1


def test_half_made_cache_of_a_killed_process_is_cleared(folder: Path) -> None:
    cache = folder / ".cache" / PictureDataset(folder, SIZE).fingerprint
    shutil.rmtree(cache)
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = cache.with_name(f".{cache.name}.0a1b2c3d.{gone.pid}.partial")
    left.mkdir()
    (left / "images.npy").write_bytes(b"half")
    assert torch.equal(PictureDataset(folder, 2 * SIZE).image(0), truth(0))
    PictureDataset(folder, SIZE)
    assert not left.exists() and cache.is_dir()


def test_splits_are_their_own(folder: Path) -> None:
    write_shard(folder / "held_out" / "000000.tar", [make_sample(7)])
    assert PictureDataset(folder, SIZE, split="held_out").item(0, generator(0))["label"] == 7


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_shares_outside_one_are_refused(folder: Path, fraction: float) -> None:
    with pytest.raises(ValueError, match=rf"crop_fraction={fraction} is not in \[0, 1\]"):
        PictureDataset(folder, SIZE, crop_fraction=fraction)


def test_requests_that_cannot_be_met_are_one_line_and_leave_no_cache(folder: Path) -> None:
    with pytest.raises(ValueError, match="size=0 is not positive"):
        PictureDataset(folder, 0)
    with pytest.raises(FileNotFoundError, match="no shards"):
        PictureDataset(folder, SIZE, split="nowhere")
    with pytest.raises(ValueError, match="000000: crop_fraction needs pictures of 32 px, but it is 16 px"):
        PictureDataset(folder, 2 * SIZE, crop_fraction=0.5)
    write_shard(folder / "broken" / "000000.tar", [Sample("000000", b"torn", {"captions": ["x"]})])
    with pytest.raises(ValueError, match=r"broken/000000.tar:000000: no picture format .*; run `ldm data check`"):
        PictureDataset(folder, SIZE, split="broken")
    assert [path.name for path in (folder / ".cache").iterdir()] == ["index"]


def test_kind_weights_are_factors_on_the_weights_of_kinds(tmp_path: Path) -> None:
    kinds = [("icon", 1.0), ("pair", 3.0), ("count", 1.0)]
    samples = [make_sample(i, kind=kind, weight=weight) for i, (kind, weight) in enumerate(kinds)]
    write_shard(tmp_path / "train" / "000000.tar", samples)
    assert PictureDataset(tmp_path, SIZE).weights.tolist() == [1.0, 3.0, 1.0]
    assert PictureDataset(tmp_path, SIZE, kind_weights={"pair": 0.5, "count": 0.0}).weights.tolist() == [1.0, 1.5, 0.0]


def test_kinds_that_no_picture_is_of_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "held_out"):
        write_shard(tmp_path / split / "000000.tar", [make_sample(0, kind="icon"), make_sample(1, kind="pair")])
    open_pictures(DataConfig(str(tmp_path), size=SIZE, kind_weights={"pair": 0.5}), str(tmp_path / "run"), True)
    assert not caplog.records
    open_pictures(DataConfig(str(tmp_path), size=SIZE, kind_weights={"pairs": 0.5}), str(tmp_path / "run"), True)
    assert "data.kind_weights: no picture is of kind pairs; the kinds are icon, pair" in caplog.text
