"""The pictures of the bench: some of a folder or data set, 128 px on white, of 8 bits."""

import random
from pathlib import Path

from torch import Tensor

from ldm.data.pictures.dataset import PictureDataset
from ldm.data.sources.open_source import HELD_OUT, TRAIN, SourceConfig, open_source
from ldm.progress import Progress, silent

SIZE = 128


def part_of(data: str) -> str:
    """Which pictures are measured: those that are held out, or all of a folder that has no such part."""
    return HELD_OUT if (Path(data) / HELD_OUT).is_dir() else TRAIN


def read_pictures(
    data: str, split: str, count: int, seed: int, progress: Progress = silent, size: int = SIZE
) -> tuple[list[Tensor], str]:
    """At most `count` random pictures (3, size, size) in [0, 1], fewer are the first of more, and a fingerprint of all.

    Raises:
        FileNotFoundError, ValueError: there is nothing, or it holds no pictures.
    """
    source = open_source([SourceConfig(data)], split, captioned=False, progress=progress)
    pictures = PictureDataset(source, size, cache_pictures="false", progress=progress)
    numbers = random.Random(seed).sample(range(len(pictures)), len(pictures))[:count]
    return [((pictures.usable(i)[1] + 1) * 127.5).round() / 255 for i in numbers], pictures.fingerprint
