"""Shards: equal samples are equal bytes, the webdataset package reads them, damage is found and named."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkout import ROOT
from PIL import Image

from ldm.data.check import check
from ldm.data.sources.open_source import SourceConfig, open_source
from ldm.data.sources.webdataset import Sample, read_shard, write_shard
from ldm.io.disk.partial import clear_abandoned, partial_of


def png(size: int = 8, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


def samples(count: int = 3) -> list[Sample]:
    return [Sample(f"{i:06d}", png(seed=i), {"captions": [f"picture {i}", "é"], "label": i}) for i in range(count)]


def add(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def caption(text: Any) -> bytes:
    return json.dumps({"captions": text}).encode()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert write_shard(tmp_path / "train" / "000000.tar", samples()) == 3
    assert list(read_shard(tmp_path / "train" / "000000.tar")) == samples()
    source = open_source([SourceConfig(str(tmp_path))])
    found = [(source.picture(i), source.metadata(i)) for i in range(3)]
    assert found == [(sample.picture, sample.meta) for sample in samples()]


def test_equal_samples_are_equal_bytes(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", samples())
    reordered = [Sample(s.key, s.picture, dict(reversed((s.meta or {}).items()))) for s in samples()]
    write_shard(tmp_path / "b.tar", reordered)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_webdataset_reads_our_shards(tmp_path: Path) -> None:
    import webdataset

    write_shard(tmp_path / "000000.tar", samples())
    dataset = webdataset.WebDataset(str(tmp_path / "000000.tar"), shardshuffle=False).decode("rgb8")
    read = list(dataset)
    assert [item["__key__"] for item in read] == ["000000", "000001", "000002"]
    for item, sample in zip(read, samples(), strict=True):
        assert item["json"] == sample.meta
        assert np.array_equal(item["png"], np.asarray(Image.open(io.BytesIO(sample.picture or b""))))


def test_shards_of_webdataset_are_read_by_us(tmp_path: Path) -> None:
    import webdataset

    with webdataset.TarWriter(str(tmp_path / "000000.tar")) as writer:
        for sample in samples():
            writer.write({"__key__": sample.key, "jpg": sample.picture, "json": sample.meta})
    assert list(read_shard(tmp_path / "000000.tar")) == samples()


def test_failed_write_leaves_the_old_shard_and_nothing_else(tmp_path: Path) -> None:
    write_shard(tmp_path / "000000.tar", samples())
    before = (tmp_path / "000000.tar").read_bytes()

    def torn():
        yield samples()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "000000.tar", torn())
    assert (tmp_path / "000000.tar").read_bytes() == before
    assert list(tmp_path.iterdir()) == [tmp_path / "000000.tar"]


def test_what_a_killed_writer_left_is_cleared_and_what_a_living_one_writes_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "000000.tar"
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from ldm.data.sources.webdataset import Sample, write_shard\n"
        "def samples():\n    yield Sample('0', b'half', {})\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_shard(Path(sys.argv[1]), samples())"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert [left.name.startswith(".") for left in tmp_path.iterdir()] == [True]
    living = tmp_path / f".000000.tar.0a1b2c3d.{os.getppid()}.partial"
    living.touch()
    write_shard(path, samples())
    assert sorted(tmp_path.iterdir()) == sorted([path, living])


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only /proc tells an ended process from a running one")
def test_what_an_uncollected_process_left_is_cleared(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
    left = tmp_path / f".cache.0a1b2c3d.{gone.pid}.partial"
    left.touch()
    clear_abandoned(tmp_path / "cache")
    gone.wait()
    assert not left.exists()


def test_abandoned_folders_are_cleared(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = tmp_path / f".cache.0a1b2c3d.{gone.pid}.partial"
    (left / "sub").mkdir(parents=True)
    own = partial_of(tmp_path / "cache")
    own.mkdir()
    clear_abandoned(tmp_path / "cache")
    assert list(tmp_path.iterdir()) == [own]


@pytest.mark.parametrize("kept", [0, 700, 1024, 1500])
def test_truncated_shard_is_named(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "000000.tar"
    write_shard(path, samples())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"000000.tar: broken shard .*build, copy or download it again"):
        list(read_shard(path))


def test_damaged_header_is_no_end(tmp_path: Path) -> None:
    path = add(tmp_path / "000000.tar", {"0.png": b"a", "0.json": b"{}", "1.png": b"b", "1.json": b"{}"})
    content = bytearray(path.read_bytes())
    content[2048 + 5] ^= 1  # inside the header of 1.png
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken shard \(it ends before its end mark\)"):
        list(read_shard(path))


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_one_bad_record_refuses_no_other(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    add(tmp_path / "000000.tar", {"0.png": png(), "0.json": content, "1.png": png(seed=1), "1.json": caption("one")})
    source = open_source([SourceConfig(str(tmp_path))])
    assert [source.metadata(i)["captions"] for i in range(len(source))] == [["one"]]
    assert "1 of 2 records are odd" in caplog.text and "000000.tar:0: its json" in caplog.text
    (problem,) = check(tmp_path)
    assert problem.key == "0" and problem.what.startswith("its json")


def test_keys_end_at_the_first_dot_as_in_webdataset(tmp_path: Path) -> None:
    """Oracle: the webdataset package groups the same members into the same samples."""
    import webdataset

    members = {"a/000.mask.png": png(seed=1), "a/000.jpg": png(), "a/000.txt": b"a fox", "a/000.seg.txt": b"no"}
    members |= {"a/001.input.webp": png(seed=2), "a/001.json": caption(["two"]), "._001.png": b"of a Macintosh"}
    path = add(tmp_path / "000000.tar", members)
    theirs = [item["__key__"] for item in webdataset.WebDataset(str(path), shardshuffle=False)]
    ours = list(read_shard(path))
    assert [sample.key for sample in ours] == theirs == ["a/000", "a/001"]
    assert [sample.picture for sample in ours] == [png(), png(seed=2)]
    assert [sample.meta["captions"] for sample in ours if sample.meta] == [["a fox"], ["two"]]


def test_missing_shards_are_named(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match=r"train: no shards \(\*.tar\) and no pictures here"):
        open_source([SourceConfig(str(tmp_path))], "train")
    with pytest.raises(FileNotFoundError, match="no shards"):
        check(tmp_path)


def flat_png(colour: int, dot: int = 0) -> bytes:
    picture = Image.new("RGB", (64, 64), (colour, colour, colour))
    picture.paste((0, 0, 0), (0, 0, dot, dot))
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    return encoded.getvalue()


@pytest.mark.parametrize(
    ("members", "finding"),
    [
        ({"1.png": flat_png(255), "1.json": caption(["white"])}, "near-blank picture"),
        ({"1.png": flat_png(90, dot=1), "1.json": caption(["grey"])}, "near-blank picture"),
        ({"1.png": b"no picture", "1.json": caption(["x"])}, "unreadable picture"),
        ({"1.png": png(64)[:200], "1.json": caption(["torn"])}, "unreadable picture"),
        ({"1.png": b"", "1.json": caption(["empty"])}, "unreadable picture"),
        ({"1.png": png(), "1.json": caption(["fine", " "])}, "an empty caption"),
        ({"1.png": png(), "1.json": caption([])}, "no captions"),
        ({"1.png": png(), "1.json": b"{}"}, "no captions"),
        ({"1.png": png()}, "no json beside the picture"),
        ({"1.json": caption(["alone"])}, "no picture beside the json"),
    ],
)
def test_check_finds_what_would_spoil_a_training(tmp_path: Path, members: dict[str, bytes], finding: str) -> None:
    fine = {"0.png": png(), "0.json": caption(["fine"])}
    add(tmp_path / "train" / "000000.tar", fine | members | {"2.png": png(), "2.json": caption(["fine"])})
    (problem,) = check(tmp_path)
    assert problem.key == "1" and finding in problem.what
    assert str(problem).startswith(f"{tmp_path}/train/000000.tar:1: {finding}")


def test_check_passes_a_small_thing_and_goes_on_after_a_broken_shard(tmp_path: Path) -> None:
    add(tmp_path / "held_out" / "000000.tar", {"0.png": flat_png(255, dot=3), "0.json": caption(["a dot"])})
    assert check(tmp_path) == []
    (tmp_path / "held_out" / "000001.tar").write_bytes(b"torn")
    add(tmp_path / "train" / "000000.tar", {"5.png": png()})
    found = [(Path(problem.place).name, problem.key) for problem in check(tmp_path)]
    assert found == [("000001.tar", ""), ("000000.tar", "5")]
