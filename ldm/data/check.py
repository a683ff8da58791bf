"""Look through pictures for what would spoil a training: broken or blank ones, missing captions, wrong numbers."""

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ldm.data.pictures.decoding import decode_picture
from ldm.data.pictures.frames import bounded_map
from ldm.data.sources.addresses import expand, is_remote
from ldm.data.sources.class_labels import outside_classes
from ldm.data.sources.hugging_face import HuggingFaceSource, is_hugging_face, load_splits
from ldm.data.sources.label_and_weight import wrong_numbers
from ldm.data.sources.open_source import SourceConfig, named_classes
from ldm.data.sources.picture_folder import PictureFolder, holds_pictures
from ldm.data.sources.source import NOTE, Source
from ldm.data.sources.webdataset import Sample, read_shard
from ldm.progress import Progress, silent, track

_BLANK_RANGE = 24
_BLANK_SHARE = 0.001


@dataclass(frozen=True)
class Problem:
    """One finding: the shard or picture, the sample's key in a shard ("" otherwise) and what is wrong."""

    place: str
    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}{':' if self.key else ''}{self.key}: {self.what}"


def check_all(sources: Sequence[SourceConfig], progress: Progress = silent) -> list[Problem]:
    """`check` of each. Raises what `check` raises, and ValueError for sources whose class folders are others."""
    named_classes(sources)
    return [problem for source in sources for problem in check(source, progress)]


def check(source: SourceConfig | Path | str, progress: Progress = silent) -> list[Problem]:
    """Every problem in all parts of a source.

    These are unreadable or near-blank pictures, missing json, empty captions, labels and weights that are no numbers,
    and pictures in none of the folders that stand for classes. A folder of pictures or a table without a single caption
    is no problem: an autoencoder can learn from it. With `labels: folders` the two parts of a folder that a training
    reads are looked through, and no labels of metadata.

    Raises:
        FileNotFoundError: there are neither shards nor pictures.
        OSError: an address cannot be reached.
        ValueError: there is no such column, a table of metadata is broken, or no folders stand for classes.
    """
    config = source if isinstance(source, SourceConfig) else SourceConfig(str(source))
    path = config.path
    if classes := named_classes([config]):
        read = [folder for part in (config.split, config.held_out_split) if (folder := Path(path) / part).is_dir()]
        folders = read if (Path(path) / config.split).is_dir() else [Path(path)]
        parts = [PictureFolder(folder, config.caption_column) for folder in folders]
        return [problem for part in parts for problem in _check_folder(part, progress, frozenset(classes))]
    if is_hugging_face(path):
        columns = config.image_column, config.caption_column, config.label_column
        splits = load_splits(path, config.subset).items()
        tables = [HuggingFaceSource(table, f"{path} {name}", *columns) for name, table in splits]
        return [problem for table in tables for problem in _check_source(table, progress)]
    if is_remote(path) or path.endswith(".tar"):
        shards = expand(path)
    else:
        shards = sorted(str(file) for file in Path(path).rglob("*.tar") if not file.name.startswith("."))
    if shards:
        with ThreadPoolExecutor() as pool:
            each = track(shards, "checking shards", progress)
            return [problem for shard in each for problem in _check_shard(shard, config.caption_column, pool)]
    if Path(path).is_dir() and holds_pictures(Path(path)):
        return list(_check_folder(PictureFolder(Path(path), config.caption_column), progress))
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: there is no such folder or file; correct the path")
    raise FileNotFoundError(f"{path}: no shards (*.tar) and no pictures below this folder")


def _check_folder(folder: PictureFolder, progress: Progress, classes: Collection[str] = ()) -> Iterator[Problem]:
    yield from (Problem(row, "", "passed over") for row in folder.skipped)
    yield from _check_source(folder, progress, classes)


def _check_source(source: Source, progress: Progress, classes: Collection[str] = ()) -> Iterator[Problem]:
    captioned = any(source.metadata(i)["captions"] for i in range(len(source)))

    def look(index: int) -> list[str]:
        try:
            picture = source.picture(index)
        except ValueError as error:
            return [f"unreadable picture ({error})"]
        return [*(_of_captions(source.metadata(index)) if captioned else ()), *_of_picture(picture)]

    for index in range(len(source)):
        meta = source.metadata(index)
        if NOTE in meta:
            yield Problem(source.where(index), "", meta[NOTE])
        if classes:
            meta = {**meta, "label": None}
            if wrong := outside_classes(source.key(index), classes):
                yield Problem(source.where(index), "", wrong)
        for what in wrong_numbers(meta):
            yield Problem(source.where_metadata(index), "", what)

    with ThreadPoolExecutor() as pool:
        found = bounded_map(pool, look, range(len(source)))
        for index, findings in enumerate(track(found, "checking pictures", progress, len(source))):
            for what in findings:
                yield Problem(source.where(index), "", what)


def _check_shard(shard: str, caption_field: str, pool: ThreadPoolExecutor) -> Iterator[Problem]:
    def look(sample: Sample) -> tuple[str, list[str]]:
        about = [sample.note] if sample.note else []
        if sample.meta is not None:
            about += [*_of_captions(sample.meta, caption_field), *wrong_numbers(sample.meta)]
        elif not about:
            about = ["no json beside the picture"]
        return sample.key, [*about, *_of_picture(sample.picture)]

    try:
        for key, findings in bounded_map(pool, look, read_shard(shard)):
            for what in findings:
                yield Problem(shard, key, what)
    except (ValueError, OSError) as error:
        yield Problem(shard, "", str(error).removeprefix(f"{shard}: "))


def _of_captions(meta: dict[str, Any], caption_field: str = "") -> Iterator[str]:
    captions = meta.get(caption_field or "captions")
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not captions:
        yield "no captions"
    elif not all(isinstance(caption, str) and caption.strip() for caption in captions):
        yield "an empty caption"


def _of_picture(picture: bytes | None) -> Iterator[str]:
    if picture is None:
        yield "no picture beside the json"
        return
    try:
        pixels = np.asarray(decode_picture(picture), dtype=np.int16)
    except ValueError as error:
        yield f"unreadable picture ({error})"
        return
    ground = np.median(pixels.reshape(-1, 3), axis=0)
    if (np.abs(pixels - ground).max(axis=-1) > _BLANK_RANGE).mean() < _BLANK_SHARE:
        yield "near-blank picture"
