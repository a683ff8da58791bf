"""Shards and tables that lie elsewhere give the same pictures as here, by pieces; what cannot be had is named."""

import http.server
import io
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_files import captions, opened, png, put, tar
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ldm.data.check import check
from ldm.data.pictures.bad_pictures import BadPictures
from ldm.data.pictures.dataset import PictureDataset
from ldm.data.sources import addresses
from ldm.data.sources.open_source import SourceConfig, open_source


class _Server(http.server.SimpleHTTPRequestHandler):
    """Files with ranges, as every store of shards serves them, which Python's own server leaves out."""

    requests: list[str]

    def do_GET(self) -> None:
        file = Path(self.translate_path(self.path))
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        self.requests.append(self.headers.get("Range", "whole"))
        self.send_response(206 if wanted else 200)
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2]), len(content) - 1)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            content = content[first : last + 1]
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        self.wfile.write(content)

    def do_HEAD(self) -> None:
        file = Path(self.translate_path(self.path))
        self.send_response(200 if file.is_file() else 404)
        self.send_header("Content-Length", str(file.stat().st_size if file.is_file() else 0))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """A folder with two shards, the address under which it is served, and the requests that it got."""
    put(tmp_path / "served", {})
    for shard in range(2):
        members = {}
        for i in range(3):
            members |= {f"{i}.png": png(10 * shard + i, 64), f"{i}.txt": f"shard {shard}, picture {i}".encode()}
        tar(tmp_path / "served" / f"00{shard}.tar", members)
    requests: list[str] = []
    handler = type("_Here", (_Server,), {"requests": requests})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: handler(*args, directory=str(tmp_path / "served"))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path / "served", f"http://127.0.0.1:{server.server_address[1]}", requests
    server.shutdown()
    server.server_close()


class _Images(Dataset):
    """The whole pictures, as a loader's workers read them."""

    def __init__(self, pictures: PictureDataset) -> None:
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._pictures.image(index)


def remote(address: str, cache: Path, **more):
    return open_source([SourceConfig(address)], cache=cache, **more)


def test_shards_by_http_give_what_the_files_give_and_only_pieces_are_read(served, tmp_path: Path) -> None:
    folder, address, requests = served
    here = opened(folder)
    there = remote(address + "/{000..001}.tar", tmp_path / "cache")
    assert captions(there) == captions(here)
    requests.clear()
    pictures = [there.picture(i) for i in range(len(there))]
    assert pictures == [here.picture(i) for i in range(len(here))]
    assert len(requests) == len(pictures) and "whole" not in requests
    assert there.where(4) == f"{address}/001.tar:1"
    live = PictureDataset(there, 16, cache_pictures="false")
    wanted = [live.image(i) for i in range(6)]
    workers = DataLoader(_Images(live), batch_size=None, num_workers=1)  # forked after this process has connected
    assert all(torch.equal(*pair) for pair in zip(workers, wanted, strict=True))
    requests.clear()
    again = remote(address + "/{000..001}.tar", tmp_path / "cache")
    assert captions(again) == captions(here) and not requests  # the index is kept
    share = [remote(address + "/00{0,1}.tar", tmp_path / "cache", split=s, held_out=0.3) for s in ("train", "held_out")]
    assert {**captions(share[0]), **captions(share[1])} == captions(here) and len(share[0]) + len(share[1]) == 6


def test_shards_in_fsspec_are_found_with_a_star(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    content = tar(tmp_path / "0.tar", {"a.png": png(1), "a.txt": b"a"})
    for name in ("x-0.tar", "x-1.tar", "y.tar"):
        memory.pipe_file(f"/bucket/{name}", content)
    source = remote("memory://bucket/x-*.tar", tmp_path / "cache")
    assert captions(source) == {"x-0/a": ["a"], "x-1/a": ["a"]} and source.picture(1) == png(1)
    dataset = PictureDataset(source, 8)
    assert dataset.cache == tmp_path / "cache" and dataset.image(0).shape == (3, 8, 8)
    assert check("memory://bucket/x-*.tar") == []
    memory.pipe_file("/bucket/x-1.tar", content[:700])
    (problem,) = check("memory://bucket/x-*.tar")
    assert problem.place == "memory:///bucket/x-1.tar" and "broken shard" in problem.what
    with pytest.raises(ValueError, match=r"memory:///bucket/x-1.tar: broken shard"):
        remote("memory://bucket/x-*.tar", tmp_path / "cache")


def test_a_shard_that_fails_for_a_while_is_read_again(served, tmp_path: Path, monkeypatch) -> None:
    _, address, _ = served
    source = remote(f"{address}/000.tar", tmp_path / "cache")
    wanted, real, failures = source.picture(0), addresses._system, iter([1, 1])

    def unsteady(path: str):
        if next(failures, 0):
            raise ConnectionResetError("the line went dead")
        return real(path)

    monkeypatch.setattr(addresses, "_PAUSES", (0.0, 0.0))
    monkeypatch.setattr(addresses, "_system", unsteady)
    assert source.picture(0) == wanted


def test_what_cannot_be_reached_is_one_line_and_no_bad_picture(served, tmp_path: Path, monkeypatch) -> None:
    folder, address, _ = served
    monkeypatch.setattr(addresses, "_PAUSES", ())
    with pytest.raises(OSError, match=rf"{address}/009.tar is not there; correct the address"):
        remote(f"{address}/009.tar", tmp_path / "cache")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(OSError, match=rf"{nobody}/0.tar cannot be reached .*; correct the address or try again later"):
        remote(f"{nobody}/0.tar", tmp_path / "cache")
    with pytest.raises(OSError, match=r"nosuch://x/0.tar: this kind of address|nosuch://x/0.tar cannot be reached"):
        remote("nosuch://x/0.tar", tmp_path / "cache")
    with pytest.raises(FileNotFoundError, match=r"memory://empty/\*.tar: no such shards"):
        remote("memory://empty/*.tar", tmp_path / "cache")
    assert {problem.place for problem in check(f"{nobody}/0.tar")} == {f"{nobody}/0.tar"}
    listed = BadPictures(tmp_path / "bad_pictures.jsonl")
    dataset = PictureDataset(
        remote(f"{address}/000.tar", tmp_path / "cache"), 8, cache_pictures="false", bad_pictures=listed
    )
    (folder / "000.tar").unlink()
    with pytest.raises(OSError, match=r"000.tar is not there"):
        dataset.image(0)
    assert not (tmp_path / "bad_pictures.jsonl").exists()


def test_whole_files_only_are_refused_with_the_mend(served, tmp_path: Path, monkeypatch) -> None:
    """Python's own server knows no ranges; a copy on this disk does."""
    folder, _, _ = served
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0),
        lambda *args: type("_Plain", (http.server.SimpleHTTPRequestHandler,), {"log_message": _Server.log_message})(
            *args, directory=str(folder)
        ),
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/000.tar"
    try:
        with pytest.raises(OSError, match=rf"simplecache::{address}"):
            remote(address, tmp_path / "cache").picture(0)
        source = remote(f"simplecache::{address}", tmp_path / "cache")
        assert [source.picture(i) for i in range(3)] == [png(i, 64) for i in range(3)]
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def table():
    datasets = pytest.importorskip("datasets")
    rows = {
        "image": [{"bytes": png(i), "path": None} for i in range(20)],
        "prompt": [f"prompt {i}" for i in range(20)],
        "text": [[f"text {i}", "another"] for i in range(20)],
        "class": [i % 3 for i in range(20)],
    }
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "prompt": datasets.Value("string"),
            "text": datasets.List(datasets.Value("string")),
            "class": datasets.Value("int64"),
        }
    )
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize("layout", ["saved", "saved splits", "parquet file", "parquet folder"])
def test_tables_of_hugging_face_are_read_from_every_layout(layout: str, table, tmp_path: Path) -> None:
    import datasets

    path = tmp_path / ("0.parquet" if layout == "parquet file" else "data")
    if layout == "saved":
        table.save_to_disk(path)
    elif layout == "saved splits":
        parts = {"train": table.select(range(15)), "validation": table.select(range(15, 20))}
        datasets.DatasetDict(parts).save_to_disk(path)
    elif layout == "parquet file":
        table.to_parquet(path)
    else:
        (path / "data").mkdir(parents=True)
        table.select(range(15)).to_parquet(path / "data" / "train-00000-of-00001.parquet")
        table.select(range(15, 20)).to_parquet(path / "data" / "validation-00000-of-00001.parquet")
    divided = layout in ("saved splits", "parquet folder")
    more = {"held_out_split": "validation"} if divided else {}
    columns = {"caption_column": "prompt", "label_column": "class"}
    config = SourceConfig(str(path), **columns, **more)
    train, held_out = (open_source([config], split, 0.2, cache=tmp_path / "cache") for split in ("train", "held_out"))
    seen = {}
    for source in (train, held_out):
        for i in range(len(source)):
            number = int(source.metadata(i)["captions"][0].removeprefix("prompt "))
            seen[number] = source.picture(i)
            assert source.metadata(i)["label"] == number % 3
    assert seen == {i: png(i) for i in range(20)} and len(train) + len(held_out) == 20
    assert not divided or len(held_out) == 5
    plain = open_source([SourceConfig(str(path), **more)], cache=tmp_path / "cache")
    assert plain.metadata(0)["captions"] == ["text 0", "another"] and "label" not in plain.metadata(0)
    dataset = PictureDataset(train, 8)
    wanted = np.asarray(Image.open(io.BytesIO(train.picture(0))))
    assert np.allclose((dataset.image(0).permute(1, 2, 0) + 1) * 127.5, wanted, atol=1e-4)
    assert (
        PictureDataset(open_source([config], "train", 0.2, cache=tmp_path / "cache"), 8).fingerprint
        == dataset.fingerprint
    )
    assert check(config) == []


def test_columns_and_splits_that_are_not_there_are_named(table, tmp_path: Path, monkeypatch) -> None:
    table.save_to_disk(tmp_path / "data")
    for wrong, message in (
        ({"caption_column": "promt"}, r"caption_column='promt' is no column of .*; did you mean 'prompt'"),
        ({"image_column": "img"}, r"image_column='img' is no column of .*; did you mean 'image'"),
        ({"label_column": "klass"}, r"label_column='klass' is no column of .*; did you mean 'class'"),
        ({"split": "trian"}, r"split of .* 'trian'; did you mean 'train'"),
    ):
        with pytest.raises(ValueError, match=message):
            open_source([SourceConfig(str(tmp_path / "data"), **wrong)], cache=tmp_path / "cache")
    with pytest.raises(ValueError, match="image_column='a' is for data sets of Hugging Face"):
        open_source([SourceConfig(str(tmp_path), image_column="a")])
    table.remove_columns("image").save_to_disk(tmp_path / "blind")
    with pytest.raises(ValueError, match="no column of pictures among prompt, text, class; name one in image_column"):
        open_source([SourceConfig(str(tmp_path / "blind"))], cache=tmp_path / "cache")
    import datasets

    def offline(name: str, subset: str | None):
        assert (name, subset) == ("owner/name", "small")
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(OSError, match=r"hub:owner/name cannot be reached \(no route to the hub\)"):
        open_source([SourceConfig("hub:owner/name", subset="small")])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, subset: datasets.DatasetDict({"train": table}))
    assert len(open_source([SourceConfig("hub:owner/name")], cache=tmp_path / "cache")) == 20
