"""Pictures with absurd sizes, damage or recipes: a line, nothing on the terminal beside it, and the rest is taken."""

import json
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldm.generation.from_picture import request_from
from ldm.generation.regional_prompt import RegionalPrompt
from ldm.generation.request import Request
from ldm.io.metadata.texts import read_texts


def _with_texts(path: Path, **texts: str) -> Path:
    info = PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def _header_of(path: Path, width: int, height: int) -> Path:
    """A PNG that says it has so many pixels, and has none."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", 0x35AF061E))
    return path


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("width", "height", "message"),
    [(60_000, 60_000, "has more than [0-9,]+ pixels"), (10_000, 10_000, "cannot be read")],
)
def test_huge_pictures_are_refused_in_a_line(tmp_path: Path, width: int, height: int, message: str) -> None:
    path = _header_of(tmp_path / "x.png", width, height)
    for read in (read_texts, lambda path: RegionalPrompt.from_file(path, "x")):
        with pytest.raises(ValueError, match=message) as error:
            read(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\0\0\0 ftypavif" + b"\0" * 40, b"\x89PNG\r\n\x1a\n" + b"x" * 50, b"GIF89a"])
def test_what_is_no_picture_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.png (is not a picture|cannot be read)"):
        read_texts(tmp_path / "x.png")


def test_pillows_runtime_errors_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("Failed to decode frame 0: \x1b[31m")

    monkeypatch.setattr(Image.Image, "load", broken)
    with pytest.raises(ValueError, match=r"cannot be read \(Failed to decode frame 0: \\x1b\[31m\)"):
        read_texts(_header_of(tmp_path / "x.png", 8, 8))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("Clip skip", "-999"), ("Clip skip", "0"), ("Steps", "1000000000"), ("Steps", "1e9"), ("Seed", "Infinity")),
        *(("Seed", "-1"), ("CFG scale", "1e308"), ("CFG scale", "nan"), ("Size", "99999999x64"), ("CFG rescale", "7")),
    ],
)
def test_absurd_numbers_are_put_aside_with_a_line(tmp_path: Path, field: str, value: str) -> None:
    fields = {"Steps": "20", "Sampler": "Euler", "CFG scale": "7", "Seed": "5", field: value}
    text = "a cat\n" + ", ".join(f"{name}: {each}" for name, each in fields.items())
    request, unused = request_from(_with_texts(tmp_path / "x.png", parameters=text))
    assert request.prompt == "a cat" and request.sampler == "Euler"
    request.check()
    assert len(unused) == 2 and "names no model" in unused[0]


def test_infinite_numbers_of_json_are_put_aside(tmp_path: Path) -> None:
    text = json.dumps({"positive_prompt": "a cat", "seed": float("inf"), "steps": 10**400, "cfg_scale": float("inf")})
    request, unused = request_from(_with_texts(tmp_path / "x.png", invokeai_metadata=text))
    assert request.changed({}) == Request(prompt="a cat", prompt_syntax="compel") and len(unused) == 4
