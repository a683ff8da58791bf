"""Opens the source that a configuration names: kind of the path, splits, held-out share."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldm.data.sources.addresses import expand, is_remote
from ldm.data.sources.class_labels import FOLDERS, LABELS, METADATA, class_folders
from ldm.data.sources.columns import Columns
from ldm.data.sources.held_out import split_by_key
from ldm.data.sources.hugging_face import HUB, HuggingFaceSource, is_hugging_face, load_splits
from ldm.data.sources.metadata_table import METADATA_FILES
from ldm.data.sources.mixture import SourceMixture
from ldm.data.sources.picture_folder import PictureFolder, holds_pictures
from ldm.data.sources.shard_source import ShardSource
from ldm.data.sources.source import Part, Source
from ldm.naming import look_up, nearest
from ldm.progress import Progress, silent

TRAIN, HELD_OUT = "train", "held_out"


@dataclass(frozen=True)
class SourceConfig:
    """One source of pictures.

    Attributes:
        path: a folder of pictures or shards, with or without `train/` and `held_out/`; shards by path or address, with
            `{000..010}` and `*`; a folder or Parquet file of Hugging Face's `datasets`, or `hub:owner/name`.
        weight: its share of the samples, relative to the other sources; null draws all pictures of all sources alike.
        split, held_out_split: the parts that are trained on and held out: folders in `path`, or splits of a Hugging
            Face data set. Without the second a share is held out.
        caption_column: of the json or the table, that holds the captions; empty finds `captions`, a text file,
            `caption` or `text`.
        labels: where the class of a picture is: `metadata`, a whole number named `label`; or `folders`, whose place
            among the sorted names of the folders in `path`, or in its `train/`, is the class, as in ImageNet.
        image_column, label_column: of a Hugging Face data set; empty takes the only pictures, and `label`.
        subset: of a data set of the hub that has several.
    """

    path: str = ""
    weight: float | None = None
    split: str = TRAIN
    held_out_split: str = HELD_OUT
    caption_column: str = ""
    image_column: str = ""
    label_column: str = ""
    subset: str = ""
    labels: str = METADATA

    def __post_init__(self) -> None:
        look_up("labels", self.labels, dict.fromkeys(LABELS))

    def part(self, split: str) -> str:
        """This source's name of the splits `train` and `held_out`; other names are left as they are."""
        return {TRAIN: self.split, HELD_OUT: self.held_out_split}.get(split, split)


def open_source(
    configs: Sequence[SourceConfig],
    split: str = "train",
    held_out: float = 0.0,
    captioned: bool = True,
    cache: Path | None = None,
    progress: Progress = silent,
) -> SourceMixture:
    """One part of the pictures of all sources together.

    Args:
        configs: at least one.
        split: "train" or "held_out", or another folder in each source's.
        held_out: share of the pictures that is held out of sources that have no `held_out/`, by the sha256 of their
            keys, in [0, 1). With 0 such a source has no held-out part.
        captioned: pass over pictures without captions.
        cache: folder that keeps what is found out about the sources; None takes `default_cache`.
        progress: of reading shards for the first time.

    Raises:
        FileNotFoundError: there is nothing at a path, or a source has no such part.
        OSError: an address cannot be reached.
        ValueError: a source is broken, none of its pictures has a caption, a label or weight is no number, only some
            sources have weights, or their class folders are others.
    """
    if not configs or not all(config.path for config in configs):
        raise ValueError("data.folder is empty; name a folder of pictures or shards, or several in data.sources")
    if not 0 <= held_out < 1:
        raise ValueError(f"data.held_out={held_out} is not in [0, 1)")
    shares = [config.weight for config in configs if config.weight is not None]
    if len(shares) not in (0, len(configs)):
        without = next(config.path for config in configs if config.weight is None)
        raise ValueError(f"data.sources: {without} has no weight, others have; give all of them one, or none")
    cache = cache or default_cache(configs)
    classes = named_classes(configs)
    sources = [_open(config, split, held_out, cache, progress) for config in configs]
    known = [_with_columns(source, config, captioned) for source, config in zip(sources, configs, strict=True)]
    columns = [each for _, each in known]
    return SourceMixture([source for source, _ in known], columns, cache, shares or None, classes)


def default_cache(configs: Sequence[SourceConfig]) -> Path:
    """Where caches of these pictures belong: `.cache` in the one data folder, or the user's cache."""
    if len(configs) == 1 and Path(configs[0].path).is_dir():
        return Path(configs[0].path) / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ldm" / "data"


def named_classes(configs: Sequence[SourceConfig]) -> tuple[str, ...] | None:
    """The class names of all sources' labels, if every source has class folders.

    Raises:
        ValueError: a source is no folder of folders, or two have other ones.
    """
    named = {config.path: _class_folders(config) for config in configs if config.labels == FOLDERS}
    for path, classes in named.items():
        first = next(iter(named))
        if other := set(classes).symmetric_difference(named[first]):
            raise ValueError(
                f"data.sources: {first} and {path} have other class folders, {min(other)} is in one of them only; give"
                " both the same, empty ones if need be"
            )
    return next(iter(named.values())) if len(named) == len({config.path for config in configs}) else None


def _class_folders(config: SourceConfig) -> tuple[str, ...]:
    folder = Path(config.path)
    if is_hugging_face(config.path) or not folder.is_dir() or any(folder.glob("*.tar")):
        raise ValueError(f"labels='folders' is for folders of pictures, and {config.path} is none; leave it out")
    return class_folders(folder / config.split if (folder / config.split).is_dir() else folder)


def _open(config: SourceConfig, split: str, share: float, cache: Path, progress: Progress) -> Source:
    folder, part = Path(config.path), config.part(split)
    if is_hugging_face(config.path):
        return _table(config, split, share)
    for name in ("image_column", "label_column", "subset"):
        if value := getattr(config, name):
            raise ValueError(
                f"{name}={value!r} is for data sets of Hugging Face, and {config.path} is none; leave it out"
            )
    if is_remote(config.path) or config.path.endswith(".tar"):
        return _part(_shards(config, cache, progress), config, split, share)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"data folder {folder} does not exist; correct the path, or `ldm data build` it first; "
            f"a data set of Hugging Face's hub is {HUB}owner/name"
        )
    train, held_out = folder / config.split, folder / config.held_out_split
    if (folder / part).is_dir() and (split != TRAIN or held_out.is_dir()):
        return _folder(folder / part, config, cache, progress)
    if train.is_dir():
        return _part(_folder(train, config, cache, progress), config, split, share)
    if held_out.is_dir():
        raise FileNotFoundError(f"{train}: no shards (*.tar) and no pictures here, beside {held_out}")
    return _part(_folder(folder, config, cache, progress), config, split, share)


def _part(whole: Source, config: SourceConfig, split: str, share: float) -> Source:
    """A part of a source that is not divided by itself."""
    undivided = config.split == TRAIN or (Path(config.path) / config.split).is_dir()
    if split == TRAIN and undivided and not share:
        return whole
    if share and split in (TRAIN, HELD_OUT) and undivided and config.held_out_split == HELD_OUT:
        return split_by_key(whole, share)[split == HELD_OUT]
    raise FileNotFoundError(
        f"{config.path}/{config.part(split)}: no shards (*.tar) and no pictures here; name another part or folder"
    )


def _table(config: SourceConfig, split: str, share: float) -> Source:
    splits, part = load_splits(config.path, config.subset), config.part(split)

    def opened(name: str) -> Source:
        columns = config.image_column, config.caption_column, config.label_column
        return HuggingFaceSource(look_up(f"split of {config.path}", name, splits), config.path, *columns)

    if part in splits and (split != TRAIN or config.held_out_split in splits or not share):
        return opened(part)
    if share and config.held_out_split == HELD_OUT:
        return split_by_key(opened(config.split), share)[split == HELD_OUT]
    return opened(part)


def _folder(folder: Path, config: SourceConfig, cache: Path, progress: Progress) -> Source:
    if shards := sorted(map(str, folder.glob("*.tar"))):
        return _checked(ShardSource(shards, cache, config.caption_column, progress), config)
    if holds_pictures(folder):
        classes = _class_folders(config) if config.labels == FOLDERS else None
        return _checked(PictureFolder(folder, config.caption_column, cache, classes), config)
    raise FileNotFoundError(f"{folder}: no shards (*.tar) and no pictures here; build the data or name another folder")


def _shards(config: SourceConfig, cache: Path, progress: Progress) -> Source:
    shards = expand(config.path)
    if not shards:
        raise FileNotFoundError(f"{config.path}: no such shards; correct the address")
    return _checked(ShardSource(shards, cache, config.caption_column, progress), config)


def _checked(source: Source, config: SourceConfig) -> Source:
    if len(source) == 0:
        raise ValueError(f"{config.path}: there are no pictures in it; name another folder or address")
    column, known = config.caption_column, set[str]()
    if column:
        for i in range(len(source)):
            known |= (meta := source.metadata(i)).keys()
            if column in meta:
                return source
        known.discard("captions")
        raise ValueError(f"caption_column={column!r} is in no json of {config.path}; {nearest(column, known)}")
    return source


def _with_columns(source: Source, config: SourceConfig, captioned: bool) -> tuple[Source, Columns]:
    """The source without pictures that have no captions, if they should, and what is known of the others."""
    columns = Columns.of(source)
    ids = np.flatnonzero(columns.captions.counts) if captioned else np.arange(len(source))
    if len(ids) == 0:
        raise ValueError(
            f"none of the {len(source)} pictures of {config.path} has a caption, which a training on words needs; "
            f"write them into x.txt beside x.png or into {METADATA_FILES[0]}, or name their caption_column"
        )
    return (source, columns) if len(ids) == len(source) else (Part(source, ids), columns.take(ids))
