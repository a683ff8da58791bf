"""The reader of safetensors files: as the library's own, also of headers that it refuses, mapped or in memory."""

import json
import logging
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm import LatentDiffusion
from ldm.io.disk.files import ModelFileError
from ldm.io.tensors import safetensors_file
from ldm.io.tensors.safetensors_file import read_safetensors

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn)
State = dict[str, torch.Tensor]


def _rewritten(path: Path, change: Callable[[dict[str, Any]], Any], padding: int = 0) -> Path:
    """The same numbers behind a header that is changed."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    text = json.dumps(change(header) or header).encode()
    text += b" " * (-len(text) % 8 + padding)
    path.unlink()  # a mapped file is never written over
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    state = {str(dtype): torch.arange(12).reshape(3, 4).to(dtype) for dtype in DTYPES}
    save_file({**state, "none": torch.zeros(0, 3), "one": torch.tensor(2.5)}, tmp_path / "x.safetensors", {"a": "ö"})
    return tmp_path / "x.safetensors"


def _same(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == value.dtype and torch.equal(found[name].float(), value.float())
        for name, value in expected.items()
    )


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("padding", [0, 1])
def test_it_reads_what_the_library_reads(file: Path, mapped: bool, padding: int) -> None:
    expected = load_file(file)
    _rewritten(file, lambda header: None, padding)
    weights, metadata = read_safetensors(file, mapped)
    assert metadata == {"a": "ö"}
    assert _same({name: weight.read(None) for name, weight in weights.items()}, expected)
    assert _same(
        {name: weight.read(torch.float32) for name, weight in weights.items()},
        {name: value.float() for name, value in expected.items()},
    )


@pytest.mark.parametrize("value", [3, 1.5, None, True, ["x"], {"a": {"b": 1}}])
def test_metadata_that_is_no_text_is_named_and_the_weights_are_read(
    file: Path, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    expected = load_file(file)
    _rewritten(file, lambda header: header["__metadata__"].update(ss_epoch=value))
    with caplog.at_level(logging.WARNING):
        weights, metadata = read_safetensors(file)
    assert _same({name: weight.read(None) for name, weight in weights.items()}, expected)
    assert metadata == {"a": "ö", "ss_epoch": json.dumps(value)}
    assert [f"{file}: its metadata entry 'ss_epoch'=" in record.getMessage() for record in caplog.records] == [True]


def _entry(**changed: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header["one"].update(changed)


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "metadata is a list": lambda header: header.update(__metadata__=["x"]),
    "header is a list": lambda header: [1],
    "an entry is a number": lambda header: header.update(one=5),
    "an entry lacks its place": lambda header: header["one"].pop("data_offsets"),
    "type is a number": _entry(dtype=5),
    "shape is negative": _entry(shape=[-1]),
    "shape is a truth": _entry(shape=[True]),
    "shape is huge": _entry(shape=[10**30]),
    "shape is text": _entry(shape="1"),
    "places are swapped": lambda header: header["one"]["data_offsets"].reverse(),
    "places are beyond the end": _entry(data_offsets=[10**9, 10**9 + 4]),
    "places overlap": lambda header: header.update(more={"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}),
    "a tensor is missing": lambda header: header.pop("one") and None,
    "nested deep": lambda header: header.update(one=json.loads("[" * 900 + "]" * 900)),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_headers_are_refused_in_one_line(file: Path, kind: str) -> None:
    _rewritten(file, DAMAGE[kind])
    with pytest.raises(ModelFileError, match=r"x\.safetensors is truncated, damaged or not") as error:
        read_safetensors(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 8, b"\xff" * 80, struct.pack("<Q", 10**9) + b"{}", struct.pack("<Q", 3) + b"\xff{}"]
)
def test_what_is_no_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ModelFileError, match="truncated, damaged or not safetensors"):
        read_safetensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("change", ["cut", "written over"])
def test_a_model_in_memory_outlives_its_files(tiny_folder: Path, tmp_path: Path, change: str) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    settings = {"num_inference_steps": 2, "seed": 3, "output_type": "pt"}
    expected = LatentDiffusion.from_pretrained(tiny_folder, device="cpu")("a fox", **settings).images
    model = LatentDiffusion.from_pretrained(folder, device="cpu", mmap=False)
    for path in folder.glob("*/*.safetensors"):
        size = path.stat().st_size
        with open(path, "rb+") as file:  # the same file, which a mapping would show
            if change == "cut":
                file.truncate(16)
            else:
                file.write(b"\x7f" * size)
    assert torch.equal(model("a fox", **settings).images, expected)


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("part", [8, 24, 1000])
def test_what_is_read_part_by_part_is_the_whole(
    file: Path, part: int, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors_file, "_PART", part)
    weights, _ = read_safetensors(file, mapped=False)
    whole = {name: value if dtype is None else value.to(dtype) for name, value in load_file(file).items()}
    assert _same({name: weight.read(dtype) for name, weight in weights.items()}, whole)


def test_a_file_that_became_shorter_between_two_parts_is_one_error(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors_file, "_PART", 8)
    weights, _ = read_safetensors(file)
    with open(file, "r+b") as opened:
        opened.truncate(file.stat().st_size - 70)
    with pytest.raises(ModelFileError, match=r"ends inside .*; it was changed while it was read"):
        _ = [weight.read(torch.float64) for weight in weights.values()]
