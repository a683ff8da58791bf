"""Pictures and captions in folders and shards."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from ldm.data.sources.open_source import SourceConfig, open_source


def png(seed: int, size: int = 8) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


def put(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def tar(path: Path, files: dict[str, bytes]) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path.read_bytes()


def opened(path: Path | str, split: str = "train", held_out: float = 0.0, captioned: bool = True, **more: str):
    return open_source([SourceConfig(str(path), **more)], split, held_out, captioned)


def captions(source) -> dict[str, list[str]]:
    return {source.key(i): source.metadata(i)["captions"] for i in range(len(source))}
