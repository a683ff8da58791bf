"""Recipes are found wherever tools and websites put them: EXIF of any picture, XMP, comments, hidden bits."""

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldm.generation.from_picture import recipe_in, request_from
from ldm.io.metadata.texts import read_texts

TEXT = "a fox – Füchse\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 64x64"
GRAPH = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 5, "steps": 4, "positive": ["6", 0], "negative": ["6", 0]}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["4", 0]}},
}  # fmt: skip


def picture(mode: str = "RGB", size: int = 64) -> Image.Image:
    channels = len(mode)
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, channels), dtype=np.uint8)
    return Image.fromarray(pixels, mode)


COMMENTS = {
    "big endian, as A1111": b"UNICODE\0" + TEXT.encode("utf-16-be"),
    "little endian": b"UNICODE\0" + TEXT.encode("utf-16-le"),
    "with a mark": b"UNICODE\0" + TEXT.encode("utf-16"),
    "ASCII prefix": b"ASCII\0\0\0" + TEXT.encode(),
    "no encoding": bytes(8) + TEXT.encode(),
    "no prefix": TEXT.encode(),
}


@pytest.mark.parametrize("suffix", ["jpg", "webp", "png", "avif"])
@pytest.mark.parametrize("comment", COMMENTS)
def test_user_comments_are_read_in_every_encoding(tmp_path: Path, suffix: str, comment: str) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = COMMENTS[comment]
    picture().save(tmp_path / f"x.{suffix}", exif=exif.tobytes())
    request, _ = request_from(tmp_path / f"x.{suffix}")
    assert (request.prompt, request.negative_prompt) == ("a fox – Füchse", "blurry")
    assert (request.seed, request.num_inference_steps, request.width) == (5, 20, 64)


def test_comfyuis_webp_and_descriptions_are_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0110] = "prompt:" + json.dumps(GRAPH)
    picture().save(tmp_path / "comfy.webp", exif=exif.tobytes())
    assert request_from(tmp_path / "comfy.webp")[0].prompt == "a fox"
    exif = Image.Exif()
    exif[0x010E] = TEXT.replace("–", "-").replace("ü", "u")
    picture().save(tmp_path / "described.jpg", exif=exif.tobytes())
    assert request_from(tmp_path / "described.jpg")[0].seed == 5
    exif[0x010E] = "OLYMPUS DIGITAL CAMERA: f/8, 1/60"
    picture().save(tmp_path / "camera.jpg", exif=exif.tobytes())
    with pytest.raises(ValueError, match=r"no recipe that is known here, only ImageDescription"):
        recipe_in(tmp_path / "camera.jpg")


def test_xmp_and_comments_are_read(tmp_path: Path) -> None:
    escaped = TEXT.replace("&", "&amp;").replace("<", "&lt;")
    entry = f'<rdf:Alt><rdf:li xml:lang="x-default">{escaped}</rdf:li></rdf:Alt>'
    xmp = f"<x:xmpmeta><dc:description>{entry}</dc:description></x:xmpmeta>"
    picture().save(tmp_path / "x.jpg", xmp=xmp.encode())
    assert request_from(tmp_path / "x.jpg")[0].seed == 5
    picture().save(tmp_path / "c.jpg", comment=TEXT)
    assert request_from(tmp_path / "c.jpg")[0].seed == 5


@pytest.mark.parametrize("mode", ["RGBA", "RGB"])
@pytest.mark.parametrize("packed", [True, False])
def test_bits_hidden_in_pixels_are_read(tmp_path: Path, mode: str, packed: bool) -> None:
    """The layout of ashen-sensored/sd_webui_stealth_pnginfo: mark, bits of the text, the text; column by column."""
    content = gzip.compress(TEXT.encode()) if packed else TEXT.encode()
    mark = f"stealth_{'png' if mode == 'RGBA' else 'rgb'}{'comp' if packed else 'info'}".encode()
    bits = np.unpackbits(np.frombuffer(mark + (8 * len(content)).to_bytes(4, "big") + content, np.uint8))
    pixels = np.array(picture(mode))
    band = pixels[..., 3:] if mode == "RGBA" else pixels
    columns = band.transpose(1, 0, 2).reshape(-1)
    columns[: len(bits)] = columns[: len(bits)] & 254 | bits
    band[:] = columns.reshape(band.transpose(1, 0, 2).shape).transpose(1, 0, 2)
    Image.fromarray(pixels, mode).save(tmp_path / "x.png")
    assert request_from(tmp_path / "x.png")[0].prompt == "a fox – Füchse"


def test_a_recipe_without_a_model_takes_the_default_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model_index.json").write_text("{}")  # an empty name must not mean this folder
    for name in ("", ".", "..", "./", "nowhere.safetensors"):
        info = PngInfo()
        info.add_itxt("parameters", f"{TEXT}, Model: {name}" if name else TEXT)
        picture().save("x.png", pnginfo=info)
        request, lines = request_from(Path("x.png"))
        assert request.model == "emoji"
        (line,) = [line for line in lines if "model" in line]
        assert "emoji is taken" in line and "--model" in line


@pytest.mark.parametrize(
    ("sampler", "schedule", "read", "words"),
    [
        ("DPM adaptive", "Automatic", ("dpm_fast", "Automatic"), ["A1111's sampler DPM adaptive", "dpm_fast"]),
        ("DPM fast", "Automatic", ("DPM fast", "Automatic"), []),
        ("DPM fast", "Karras", ("DPM fast", "exponential"), ["schedule karras is without effect beside dpm_fast"]),
        ("sa_solver", "Beta", ("dpmpp_2m_sde", "Beta"), ["sampler sa_solver is not here", "which has no corrector"]),
        ("Euler", "Align Your Steps 32", ("Euler", "align_your_steps"), ["schedule Align Your Steps 32 is not here"]),
        ("Kohaku LoNyu Yog", "Karras", (None, "Karras"), ["A1111's sampler is not used: Kohaku LoNyu Yog"]),
        ("IPNDM_V", "Turbo", ("IPNDM_V", "Turbo"), []),
    ],
)
def test_a_sampler_that_is_not_here_is_replaced_with_a_line(
    tmp_path: Path, sampler: str, schedule: str, read: tuple[str | None, str], words: list[str]
) -> None:
    info = PngInfo()
    info.add_itxt(
        "parameters", f"a fox\nSteps: 9, Sampler: {sampler}, Schedule type: {schedule}, CFG scale: 7, Seed: 5"
    )
    picture().save(tmp_path / "x.png", pnginfo=info)
    request, lines = request_from(tmp_path / "x.png")
    assert (request.sampler, request.schedule) == read
    said = [line for line in lines if "sampler" in line or "schedule" in line]
    assert len(said) == bool(words) and all(word in said[0] for word in words), lines


def test_absurd_numbers_are_put_aside_with_a_line(tmp_path: Path) -> None:
    settings = {"Clip skip": "-999", "Seed": "Infinity", "Steps": "-3", "CFG scale": "7"}
    info = PngInfo()
    info.add_itxt("parameters", "a fox\n" + ", ".join(f"{name}: {value}" for name, value in settings.items()))
    picture().save(tmp_path / "x.png", pnginfo=info)
    request, lines = request_from(tmp_path / "x.png")
    assert request.guidance_scale == 7 and request.clip_skip == 0
    assert request.seed is None and request.num_inference_steps is None
    for name in ("Seed", "num_inference_steps", "Clip skip"):
        assert [line for line in lines if f"A1111's {name} is not used" in line], name


def test_damaged_pictures_are_one_line(tmp_path: Path) -> None:
    encoded = io.BytesIO()
    picture().save(encoded, "PNG")
    for name, content in (("cut.png", encoded.getvalue()[:900]), ("text.png", b"hello"), ("empty.png", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name) as raised:
            read_texts(tmp_path / name)
        assert "\n" not in str(raised.value)
