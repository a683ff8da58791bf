"""Shards in the WebDataset layout: tar files of `000123.png` + `000123.json`; equal content gives equal bytes."""

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.data.partial import clear_abandoned, partial_of

PICTURE_SUFFIXES = ("png", "jpg", "jpeg", "webp")


@dataclass(frozen=True)
class Sample:
    """One picture of a shard: its key, the encoded picture and what is known about it.

    Attributes:
        key: name inside the shard, without a suffix.
        picture: encoded picture (PNG, JPEG or WebP), or None when the shard has no picture under this key.
        meta: the json beside it, or None when there is none.
    """

    key: str
    picture: bytes | None
    meta: dict[str, Any] | None


def write_shard(path: Path, samples: Iterable[Sample]) -> int:
    """Write `samples` to the tar file `path` and return their number.

    The file appears under its name only when it is complete. Owner, time and mode of the members are fixed, and the
    json is written with sorted keys, so equal samples give equal bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_abandoned(path)
    partial = partial_of(path)
    written = 0
    try:
        with partial.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                for sample in samples:
                    if sample.picture is not None:
                        _add(archive, f"{sample.key}.png", sample.picture)
                    if sample.meta is not None:
                        _add(archive, f"{sample.key}.json", encode_json(sample.meta))
                    written += 1
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return written


def read_shard(path: Path) -> Iterator[Sample]:
    """Yield the samples of one tar file in order. Members that share a key must be neighbours, as WebDataset asks.

    Raises:
        ValueError: the file is not a complete tar archive, or a json in it cannot be parsed or is not an object.
    """
    key: str | None = None
    picture: bytes | None = None
    meta: dict[str, Any] | None = None
    try:
        with path.open("rb") as tar, tarfile.open(fileobj=tar, mode="r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                stem, _, suffix = member.name.rpartition(".")
                if stem != key and key is not None:
                    yield Sample(key, picture, meta)
                    picture, meta = None, None
                key = stem
                file = archive.extractfile(member)
                content = b"" if file is None else file.read()
                if suffix.lower() in PICTURE_SUFFIXES:
                    picture = content
                elif suffix.lower() == "json":
                    meta = json.loads(content)
                    if not isinstance(meta, dict):
                        raise ValueError(f"{member.name} is not a json object")
            # tarfile takes a missing or damaged header for the end; only blocks of zeros are one.
            tar.seek(archive.offset)
            if tar.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise ValueError("it ends before its end mark")
    except (tarfile.TarError, ValueError) as error:
        raise ValueError(f"{path}: broken shard ({error}); delete it and build the data set again") from error
    if key is not None:
        yield Sample(key, picture, meta)


def list_shards(folder: Path, split: str) -> list[Path]:
    """The shards of one split in reading order.

    Raises:
        FileNotFoundError: there are none.
    """
    shards = sorted((folder / split).glob("*.tar"))
    if not shards:
        raise FileNotFoundError(f"{folder / split}: no shards (*.tar) here; build the data set or name another folder")
    return shards


def encode_json(value: Any) -> bytes:
    """Compact UTF-8 json with sorted keys."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def decode_picture(encoded: bytes) -> Image.Image:
    """The encoded picture as RGB.

    Raises:
        ValueError: it is damaged, of no known format, or suspiciously large.
    """
    try:
        return Image.open(io.BytesIO(encoded)).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o644
    archive.addfile(member, io.BytesIO(content))
