"""Files of noise: every format gives the same numbers, names go there and back, and what is wrong is said."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ldm.io.noise_file import NoiseFile

SHAPE = (4, 3, 2)
NOISE = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))


def write(path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file({"x": NOISE}, path)
    elif path.suffix == ".npy":
        np.save(path, NOISE.numpy())
    elif path.suffix == ".npz":
        np.savez(path, latents=NOISE.double().numpy(), seed=np.array(3))
    elif path.stem == "named":
        torch.save({"noise": NOISE, "step": torch.tensor(1)}, path)
    else:
        torch.save(NOISE, path)
    return path


@pytest.mark.parametrize("name", ["a.safetensors", "a.npy", "a.npz", "a.pt", "named.pt", "a#1.npy"])
def test_every_format_gives_the_numbers_and_their_names(name: str, tmp_path: Path):
    path = write(tmp_path / name)
    noise, files = NoiseFile.parse(f"{path}#1").read(2, SHAPE)
    assert torch.equal(noise, NOISE[1:]) and noise.dtype == torch.float32
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert [str(file) for file in files] == [f"{path}#1,sha256={sha256}", f"{path}#2,sha256={sha256}"]
    again, _ = NoiseFile.parse(str(files[1])).read(1, SHAPE)
    assert torch.equal(again, NOISE[2:])


@pytest.mark.parametrize("name", ["a.npy", "a.npy#2", "a.npy#sha256=" + "0" * 64, "a.npy#7,sha256=" + "f" * 64, "b#c"])
def test_names_go_there_and_back(name: str):
    assert str(NoiseFile.parse(name)) == name


def test_one_noise_serves_all_pictures(tmp_path: Path):
    for shape in ((1, *SHAPE), SHAPE):
        np.save(tmp_path / "a.npy", NOISE[0].reshape(shape).numpy())
        noise, files = NoiseFile.parse(f"{tmp_path / 'a.npy'}#5").read(3, SHAPE)
        assert torch.equal(noise, NOISE[:1].expand(3, *SHAPE)) and [file.index for file in files] == [0, 0, 0]


class Evil:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (None, "a.npy", "is missing; name a file"),
        (None, "a.png", "is no file of noise; use one of .safetensors"),
        (b"no array", "a.npy", "cannot be read as numbers"),
        (b"", "a.npz", "cannot be read as numbers"),
        (np.zeros((2, 3, 3)), "a.npy", r"is \(1, 2, 3, 3\); this call needs \(B or 1, 4, 3, 2\)"),
        (np.zeros((4,)), "a.npy", r"is \(4,\); it must be \(B, C, h, w\)"),
        (np.full(SHAPE, np.nan), "a.npy", "holds NaN or infinity"),
        (np.zeros((2, *SHAPE)), "a.npy", "holds 2 noises; 3 pictures from number 0 need more"),
        (np.array([Evil()]), "a.npy", "cannot be read as numbers"),
        ({"a": NOISE, "b": NOISE}, "a.pt", "holds 2 arrays; keep one, or call it latents"),
        (Evil(), "a.pt", "print"),
    ],
)
def test_what_is_no_noise_is_named(content, name: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        np.save(path, content, allow_pickle=True)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises((ValueError, OSError), match=words) as error:
        NoiseFile.parse(str(path)).read(3, SHAPE)
    assert "\n" not in str(error.value) and capsys.readouterr().out == ""


def test_a_file_that_changed_is_not_taken_for_the_old_one(tmp_path: Path):
    path = write(tmp_path / "a.npy")
    _, files = NoiseFile.parse(str(path)).read(1, SHAPE)
    np.save(path, NOISE.numpy() * 2)
    with pytest.raises(OSError, match="has changed since the picture was made: its sha256 begins with"):
        NoiseFile.parse(str(files[0])).read(1, SHAPE)
