"""Sources: every layout gives the pictures and captions that were put there, in an order and a split that stay."""

import json
from pathlib import Path

import numpy as np
import pytest
from picture_files import captions, opened, png, put, tar

from ldm.data.pictures.dataset import PictureDataset
from ldm.data.sources.addresses import expand
from ldm.data.sources.open_source import SourceConfig, open_source
from ldm.training.batches.sample_order import SampleOrder


def test_text_files_beside_the_pictures_are_captions_one_a_line(tmp_path: Path) -> None:
    put(
        tmp_path, {"b.png": png(1), "b.txt": "a bee\n\n a hive \n", "sub/deep/a.PNG": png(2), "sub/deep/a.caption": "é"}
    )
    put(tmp_path, {"silent.png": png(3), ".cache/hidden.png": png(4), "notes.txt": "of no picture"})
    source = opened(tmp_path)
    assert captions(source) == {"b.png": ["a bee", "a hive"], "sub/deep/a.PNG": ["é"]}
    assert source.picture(1) == png(2) and source.where(1) == str(tmp_path / "sub/deep/a.PNG")
    everything = opened(tmp_path, captioned=False)
    assert captions(everything) == {**captions(source), "silent.png": []}


def test_metadata_names_files_relative_to_itself(tmp_path: Path) -> None:
    rows = [
        {"file_name": "1.png", "text": "one"},
        {"file_name": "sub/2.png", "captions": ["two", "zwei"], "label": 7},
        {"file_name": "3.png", "caption": "three", "prompt": "drei"},
    ]
    put(tmp_path, {"in/metadata.jsonl": "\n".join(map(json.dumps, rows)) + "\n"})
    put(tmp_path / "in", {"1.png": png(1), "sub/2.png": png(2), "3.png": png(3)})
    source = opened(tmp_path)
    assert captions(source) == {"in/1.png": ["one"], "in/3.png": ["three"], "in/sub/2.png": ["two", "zwei"]}
    assert source.metadata(2)["label"] == 7
    assert captions(opened(tmp_path, caption_column="prompt")) == {"in/3.png": ["drei"]}


def test_shards_of_others_have_text_or_a_caption_in_the_json(tmp_path: Path) -> None:
    members = {"01.jpg": png(1), "01.txt": b"from text", "01.json": b'{"caption": "from json", "status": "success"}'}
    tar(tmp_path / "000.tar", {**members, "02.webp": png(2), "02.json": b'{"caption": "only json", "key": "02"}'})
    tar(tmp_path / "001.tar", {"01.png": png(3), "01.txt": b"x", "01.json": b'{"captions": ["a", "b"]}'})
    source = opened(tmp_path)
    assert captions(source) == {"000/01": ["from text"], "000/02": ["only json"], "001/01": ["a", "b"]}
    assert [source.picture(i) for i in range(3)] == [png(1), png(2), png(3)]
    assert source.where(1) == f"{tmp_path / '000.tar'}:02"
    assert captions(opened(tmp_path, caption_column="status"))["000/01"] == ["success"]


def test_ranges_choices_and_stars_are_written_out(tmp_path: Path) -> None:
    assert expand("s3://b/{008..010}.tar") == ["s3://b/008.tar", "s3://b/009.tar", "s3://b/010.tar"]
    assert expand("{a,b}-{0..1}.tar") == ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"]
    put(tmp_path, {"y-1.tar": b"", "x-1.tar": b"", "x-2.tar": b""})
    assert expand(f"{tmp_path}/x-*.tar") == [f"{tmp_path}/x-1.tar", f"{tmp_path}/x-2.tar"]


def test_a_share_is_held_out_by_key_and_stays_there(tmp_path: Path) -> None:
    for i in range(400):
        put(tmp_path, {f"{i}.png": b"x", f"{i}.txt": "x"})
    train, held_out = (set(captions(opened(tmp_path, split, 0.2))) for split in ("train", "held_out"))
    assert not train & held_out and len(train | held_out) == 400
    assert abs(len(held_out) - 80) < 3 * (400 * 0.2 * 0.8) ** 0.5
    for i in range(0, 400, 2):
        (tmp_path / f"{i}.png").unlink()
    put(tmp_path, {"new.png": b"x", "new.txt": "x"})
    left = set(captions(opened(tmp_path, "held_out", 0.2)))
    assert left - {"new.png"} == {key for key in held_out if int(key.removesuffix(".png")) % 2}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_pictures_still_have_both_parts(tmp_path: Path, count: int) -> None:
    for i in range(count):
        put(tmp_path, {f"{i}.png": b"x", f"{i}.txt": "x"})
    train, held_out = (set(captions(opened(tmp_path, split, 0.02))) for split in ("train", "held_out"))
    assert (len(train), len(held_out)) == ((1, 1) if count == 1 else (count - 1, 1))
    assert count == 1 or not train & held_out


def test_a_folder_that_is_divided_keeps_its_parts(tmp_path: Path) -> None:
    put(tmp_path, {"train/a.png": b"", "train/a.txt": "a", "held_out/b.png": b"", "held_out/b.txt": "b"})
    assert list(captions(opened(tmp_path, "train", 0.5))) == ["a.png"]
    assert list(captions(opened(tmp_path, "held_out", 0.5))) == ["b.png"]


def test_weights_are_shares_of_the_samples(tmp_path: Path) -> None:
    for name, count in (("few", 3), ("many", 30)):
        for i in range(count):
            put(tmp_path / name, {f"{i}.png": png(i), f"{i}.txt": name})
    few, many = SourceConfig(str(tmp_path / "few"), weight=3.0), SourceConfig(str(tmp_path / "many"), weight=1.0)
    dataset = PictureDataset(open_source([few, many], cache=tmp_path / "cache"), 8)
    order = SampleOrder(dataset.weights, seed=0)
    drawn = [order[i] for i in range(len(dataset))]
    assert abs(np.mean([i < 3 for i in drawn]) - 0.75) <= 1 / 33
    assert [dataset.metadata(i)["captions"] for i in (0, 2, 3, 32)] == [["few"], ["few"], ["many"], ["many"]]
    alike = PictureDataset(open_source([SourceConfig(c.path) for c in (few, many)], cache=tmp_path / "cache"), 8)
    assert set(alike.weights) == {1.0}


def test_an_index_is_made_once_and_follows_the_shard(tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", {"a.png": png(1), "a.txt": b"a"})
    opened(tmp_path)
    (index,) = (tmp_path / ".cache" / "index").iterdir()
    before = index.stat().st_mtime_ns
    assert captions(opened(tmp_path)) == {"0/a": ["a"]} and index.stat().st_mtime_ns == before
    tar(tmp_path / "0.tar", {"b.png": png(2), "b.txt": b"bbb"})
    assert captions(opened(tmp_path)) == {"0/b": ["bbb"]}


def test_requests_that_cannot_be_met_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data folder .*nowhere does not exist; correct the path"):
        opened(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no shards \(\*.tar\) and no pictures here"):
        opened(tmp_path)
    put(tmp_path, {"silent/a.png": png(1), "captioned/metadata.jsonl": '{"file_name": "a.png", "text": "x"}'})
    with pytest.raises(ValueError, match=r"none of the 1 pictures of .*silent has a caption.* write them into x.txt"):
        opened(tmp_path / "silent")
    with pytest.raises(ValueError, match=r"caption_column='txt' is in no json of .*; did you mean 'text'"):
        opened(tmp_path / "captioned", caption_column="txt")
    put(tmp_path, {"broken/metadata.jsonl": "\n{oh"})
    with pytest.raises(ValueError, match=r"broken/metadata.jsonl line 2 is not JSON .*; correct or delete the line"):
        opened(tmp_path / "broken")
    put(tmp_path, {"broken/metadata.jsonl": '{"text": "a.png"}'})
    with pytest.raises(ValueError, match=r"metadata.jsonl has the columns text; name the one .* file_name"):
        opened(tmp_path / "broken")
    put(tmp_path, {"cut/0.tar": tar(tmp_path / "whole.tar", {"a.png": png(1), "a.txt": b"a"})[:700]})
    with pytest.raises(ValueError, match=r"0.tar: broken shard"):
        opened(tmp_path / "cut")
    assert not list((tmp_path / "cut").glob(".cache/index/*"))
    with pytest.raises(ValueError, match="silent has no weight, others have"):
        open_source([SourceConfig("x", weight=1.0), SourceConfig("silent")])
