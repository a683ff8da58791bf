"""Look through a data set for what would spoil a training: broken or blank pictures, missing or empty captions."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from ldm.data.decoding import decode_picture
from ldm.data.shards import Sample, read_shard

_BLANK_RANGE = 24
_BLANK_SHARE = 0.001


@dataclass(frozen=True)
class Problem:
    """One finding: the shard, the sample's key ("" for the shard as a whole) and what is wrong."""

    shard: Path
    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.shard}{':' if self.key else ''}{self.key}: {self.what}"


def check(folder: Path) -> list[Problem]:
    """Every problem in the shards below `folder`: unreadable or near-blank pictures, missing json, empty captions.

    Raises:
        FileNotFoundError: there is no shard below `folder`.
    """
    shards = sorted(path for path in Path(folder).rglob("*.tar") if not path.name.startswith("."))
    if not shards:
        raise FileNotFoundError(f"{folder}: no shards (*.tar) below this folder")
    progress = track(shards, "checking shards", console=Console(stderr=True))
    return [problem for shard in progress for problem in _check_shard(shard)]


def _check_shard(shard: Path) -> Iterator[Problem]:
    try:
        for sample in read_shard(shard):
            for what in _findings(sample):
                yield Problem(shard, sample.key, what)
    except ValueError as error:
        yield Problem(shard, "", str(error).removeprefix(f"{shard}: "))


def _findings(sample: Sample) -> Iterator[str]:
    if sample.meta is None:
        yield "no json beside the picture"
    else:
        captions = sample.meta.get("captions")
        if not isinstance(captions, list) or not captions:
            yield "no captions"
        elif not all(isinstance(caption, str) and caption.strip() for caption in captions):
            yield "an empty caption"
    if sample.picture is None:
        yield "no picture beside the json"
        return
    try:
        pixels = np.asarray(decode_picture(sample.picture), dtype=np.int16)
    except ValueError as error:
        yield f"unreadable picture ({error})"
        return
    ground = np.median(pixels.reshape(-1, 3), axis=0)
    if (np.abs(pixels - ground).max(axis=-1) > _BLANK_RANGE).mean() < _BLANK_SHARE:
        yield "near-blank picture"
