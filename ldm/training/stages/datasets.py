"""Data sets of the stages: settings of the pictures, how they are opened, and the teacher's sentences."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conditioning.training.vocabulary_sentences import vocabulary_sentences
from ldm.data.pictures.augmenting import AugmentConfig
from ldm.data.pictures.bad_pictures import BadPictures
from ldm.data.pictures.buckets import BucketConfig, bucket_shapes
from ldm.data.pictures.dataset import CACHE_PICTURES, PictureDataset
from ldm.data.sources.class_labels import require_labels
from ldm.data.sources.mixture import SourceMixture
from ldm.data.sources.open_source import SourceConfig, open_source
from ldm.naming import look_up
from ldm.progress import Progress, silent

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataConfig:
    """Which pictures.

    Attributes:
        folder: the one source of the pictures; short for `sources` with one `path`.
        sources: several sources.
        held_out: share of the pictures that previews come from and training never sees, of each source that has no
            `held_out/`; 0 trains on all and previews what was trained on.
        size: edge of the pictures that the network sees, in pixels.
        crop_fraction: share of samples that are random crops of pictures twice as large.
        buckets: shapes that pictures may have beside the square.
        kind_weights: factors on how often pictures are drawn, by the `kind` that their recipe gave them.
        cache: folder for decoded pictures, latents and indexes; empty takes `.cache` in the data folder, or the user's
            cache where there is no such folder.
        cache_pictures: decode every picture once and keep the pixels: true, false, or auto, which does so up to 16 GiB.
        augment: how training samples are varied; previews are not.
    """

    folder: str = ""
    sources: list[SourceConfig] = field(default_factory=list)
    held_out: float = 0.02
    size: int = 64
    crop_fraction: float = 0.0
    kind_weights: dict[str, float] = field(default_factory=dict)
    cache: str = ""
    cache_pictures: str = "auto"
    buckets: BucketConfig = field(default_factory=BucketConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        bucket_shapes(self.size, self.buckets)
        if self.folder and self.sources:
            raise ValueError(
                f"data.folder={self.folder} and data.sources are both given; write data.folder='' or leave these out"
            )
        if not 0 <= self.held_out < 1:
            raise ValueError(f"data.held_out={self.held_out} is a share of the pictures: use 0 or more, below 1")
        object.__setattr__(self, "cache_pictures", self.cache_pictures.lower())  # YAML's true becomes "True"
        look_up("data.cache_pictures", self.cache_pictures, dict.fromkeys(CACHE_PICTURES))

    @property
    def all_sources(self) -> list[SourceConfig]:
        """The sources, also where only `folder` names one."""
        return self.sources or [SourceConfig(self.folder)]


def bad_pictures_of(output: str) -> BadPictures:
    """The list of a training's unreadable pictures."""
    return BadPictures(Path(output) / "bad_pictures.jsonl")


def open_pictures(
    data: DataConfig, output: str, captioned: bool, progress: Progress = silent, num_classes: int | None = None
) -> tuple[PictureDataset, PictureDataset]:
    """The training pictures, and the held-out ones for previews.

    Args:
        data: which pictures.
        output: folder of the training, which lists unreadable pictures.
        captioned: pass over pictures without captions.
        progress: of what is found out and decoded now.
        num_classes: of a network that is conditioned on labels; None for any other.
    """
    bad_pictures, cache = bad_pictures_of(output), Path(data.cache) if data.cache else None

    def opened(split: str) -> SourceMixture:
        source = open_source(data.all_sources, split, data.held_out, captioned, cache, progress)
        if num_classes is not None:
            require_labels(source, num_classes)
        return source

    train_set = PictureDataset(
        opened("train"),
        data.size,
        crop_fraction=data.crop_fraction,
        kind_weights=data.kind_weights,
        cache_pictures=data.cache_pictures,
        bad_pictures=bad_pictures,
        buckets=data.buckets,
        augment=data.augment,
        progress=progress,
    )
    if unknown := sorted(set(data.kind_weights) - train_set.kinds):
        _log.warning("data.kind_weights: no picture is of kind %s; %s", ", ".join(unknown), kinds_known(train_set))
    previews = PictureDataset(
        opened("held_out" if data.held_out else "train"),
        data.size,
        cache_pictures=data.cache_pictures,
        bad_pictures=bad_pictures,
        buckets=data.buckets,
        progress=progress,
    )
    return train_set, previews


def kinds_known(pictures: PictureDataset) -> str:
    """A line on the kinds that pictures are of, for those who named another."""
    return f"the kinds are {', '.join(sorted(pictures.kinds))}" if pictures.kinds else "no picture has a kind"


def require_bucket_step(data: DataConfig, factor: int) -> None:
    """Refuse buckets that an autoencoder of this factor cannot read.

    Raises:
        ValueError: `data.buckets.step` is not a multiple of the factor; names one that is.
    """
    if (step := data.buckets.step) % factor:
        near = max(step // factor, 1) * factor
        raise ValueError(f"data.buckets.step={step} is not a multiple of the autoencoder's factor {factor}; use {near}")


def require_squares(data: DataConfig, reader: str) -> None:
    """Refuse buckets for a `reader` of squares.

    Raises:
        ValueError: `data.buckets.step` is set.
    """
    if data.buckets.step:
        raise ValueError(f"data.buckets.step={data.buckets.step}: {reader}; use 0")


def sentences_beside(data: DataConfig, styles: Sequence[str]) -> list[str]:
    """Sentences of the words that the sources list in `words.txt` beside their captions."""
    lists = [file for source in data.all_sources if (file := Path(source.path) / "words.txt").is_file()]
    words = [word for file in lists for word in file.read_text().splitlines()]
    return vocabulary_sentences(words, styles) if words else []
