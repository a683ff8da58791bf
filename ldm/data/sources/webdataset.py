"""Shards in the WebDataset layout: tars of `000123.png` with `.json` or `.txt`; equal content gives equal bytes.

As in WebDataset a key ends at the first dot of a file's name, so `000123.mask.png` belongs to `000123` and is not its
picture.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from ldm.data.pictures.decoding import PICTURE_SUFFIXES
from ldm.data.sources.addresses import open_file
from ldm.data.sources.caption_fields import TEXT_SUFFIXES, captions_of
from ldm.data.sources.text_encodings import decode_text
from ldm.io.disk.files import replace_file


@dataclass(frozen=True)
class Sample:
    """One picture of a shard: its key, the encoded picture and what is known about it.

    Attributes:
        key: name inside the shard, without a suffix.
        picture: encoded picture, or None when the shard has no picture under this key.
        meta: the json beside it, or None when there is none.
        note: what was odd about the json or the text, as of `Entry`.
    """

    key: str
    picture: bytes | None
    meta: dict[str, Any] | None
    note: str = ""


@dataclass(frozen=True)
class Entry:
    """One sample of a shard, without the picture itself.

    Attributes:
        key: as of `Sample`.
        place: offset and length of the picture in the shard, or None.
        meta: the json, or None.
        text: the text file, or None.
        note: why the json is passed over, or as what the text was read; "" in general.
        suffix: of the picture.
    """

    key: str
    place: tuple[int, int] | None = None
    meta: dict[str, Any] | None = None
    text: str | None = None
    note: str = ""
    suffix: str = ""

    @property
    def described(self) -> dict[str, Any] | None:
        """The json, with `captions` if there are any, here or in the text; None without both."""
        captions = captions_of(self.meta or {}, self.text)
        if "captions" in (self.meta or {}) or not captions:
            return self.meta
        return {**(self.meta or {}), "captions": captions}


def write_shard(path: Path, samples: Iterable[Sample]) -> int:
    """Write `samples` to the tar file `path` and return their number.

    The file appears under its name only when it is complete. Owner, time and mode of the members are fixed, and the
    json is written with sorted keys, so equal samples give equal bytes.
    """
    written = 0
    with replace_file(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for sample in samples:
            if sample.picture is not None:
                _add(archive, f"{sample.key}.png", sample.picture)
            if sample.meta is not None:
                _add(archive, f"{sample.key}.json", encode_json(sample.meta))
            written += 1
    return written


def read_shard(path: Path | str) -> Iterator[Sample]:
    """Yield the samples of one tar file, by path or address, in order.

    Members that share a key must be neighbours, as WebDataset requires.

    A `.txt` beside the picture, one caption a line, or `caption` in the json become `captions` in `meta`.

    Raises:
        ValueError: the file is not a complete tar archive.
        OSError: it is not there, or cannot be reached.
    """
    with open_file(str(path)) as tar:
        for entry in scan_shard(tar, str(path)):
            picture = None if entry.place is None else read_place(tar, entry.place)
            yield Sample(entry.key, picture, entry.described, entry.note)


def scan_shard(tar: BinaryIO, name: str) -> Iterator[Entry]:
    """Yield what is where in a tar file, in order, without reading the pictures.

    A json that cannot be read, and a text that is not UTF-8, spoil no other sample: the entry has a `note`.

    Args:
        tar: the file, which can be moved about in.
        name: of the file, for errors.

    Raises:
        ValueError: as `read_shard`.
    """
    entry: Entry | None = None
    try:
        with tarfile.open(fileobj=tar, mode="r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                key, suffix = _split_name(member.name)
                if not key:
                    continue
                if entry is not None and key != entry.key:
                    yield entry
                    entry = None
                entry = _with_member(entry or Entry(key), suffix, (member.offset_data, member.size), tar)
            # tarfile takes a missing or damaged header for the end; only blocks of zeros are one.
            if read_place(tar, (archive.offset, tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
                raise ValueError("it ends before its end mark")
    except (tarfile.TarError, ValueError) as error:
        raise ValueError(f"{name}: broken shard ({error}); build, copy or download it again") from error
    if entry is not None:
        yield entry


def _split_name(name: str) -> tuple[str, str]:
    """Key and suffix of a member: the suffix begins at the first dot of the file's name; hidden files have no key."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return (folder + slash + stem if stem else ""), suffix.lower()


def _with_member(entry: Entry, suffix: str, place: tuple[int, int], tar: BinaryIO) -> Entry:
    """The entry with one more file of its sample; of several pictures, the one of the shortest suffix counts."""
    last = suffix.rpartition(".")[2]
    if last in PICTURE_SUFFIXES and (not entry.suffix or suffix.count(".") < entry.suffix.count(".")):
        return replace(entry, place=place, suffix=suffix)
    if suffix == "json":
        content, odd = decode_text(read_place(tar, place))
        try:
            meta = json.loads(content)
        except (ValueError, RecursionError) as error:
            return replace(entry, note=f"its json cannot be read ({error}), so it is passed over")
        if not isinstance(meta, dict):
            return replace(entry, note="its json is not an object, so it is passed over")
        return replace(entry, meta=meta, note=f"its json is {odd}" if odd else entry.note)
    if last in TEXT_SUFFIXES and (suffix == last or entry.text is None):
        text, odd = decode_text(read_place(tar, place))
        return replace(entry, text=text, note=f"its caption is {odd}" if odd else entry.note)
    return entry


def read_place(tar: BinaryIO, place: tuple[int, int]) -> bytes:
    """The bytes at `place`, an offset and a length."""
    tar.seek(place[0])
    return tar.read(place[1])


def encode_json(value: Any) -> bytes:
    """Compact UTF-8 json with sorted keys."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o644
    archive.addfile(member, io.BytesIO(content))
