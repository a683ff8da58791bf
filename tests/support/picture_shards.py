"""Two shards of random pictures, and what is known of them."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.sources.webdataset import Sample, write_shard

SIZE, COUNT = 8, 6


def pixels_of(index: int, size: int = 2 * SIZE) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (size, size, 3), dtype=np.uint8)


def make_sample(index: int, size: int = 2 * SIZE, **more: object) -> Sample:
    encoded = io.BytesIO()
    Image.fromarray(pixels_of(index, size)).save(encoded, "PNG")
    meta = {"captions": [f"picture {index}, caption {i}" for i in range(8)], "label": index, **more}
    return Sample(f"{index:06d}", encoded.getvalue(), meta)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shard(tmp_path / "train" / "000000.tar", [make_sample(i) for i in range(4)])
    write_shard(tmp_path / "train" / "000001.tar", [make_sample(4, weight=0.5), make_sample(5)])
    return tmp_path


def truth(index: int) -> torch.Tensor:
    """The picture at twice the size, (3, 16, 16) in [-1, 1]."""
    return torch.from_numpy(pixels_of(index)).permute(2, 0, 1).float() / 127.5 - 1


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
