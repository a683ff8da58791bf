"""Records are read once into columns, which say what the metadata says."""

from pathlib import Path

import numpy as np
import pytest
from picture_shards import SIZE, folder, generator  # noqa: F401  (folder is a fixture)

from ldm.data.pictures.dataset import PictureDataset
from ldm.data.sources.columns import Columns, Texts
from ldm.data.sources.label_and_weight import label_of, weight_of
from ldm.data.sources.open_source import SourceConfig, open_source
from ldm.data.sources.shard_source import ShardSource


def test_texts_are_as_they_were() -> None:
    rows = [["a", "", "zwölf 🦊"], [], ["line\nbreak", "\0", "\ud800"], ["a"]]
    texts = Texts(rows)
    assert list(texts) == rows and len(texts) == 4 and texts[2] == rows[2]
    assert list(Texts([])) == []


def test_columns_say_what_the_metadata_says(folder: Path) -> None:
    source = open_source([SourceConfig(str(folder))])
    metadata = [source.metadata(i) for i in range(len(source))]
    assert list(source.columns.captions) == [each["captions"] for each in metadata]
    assert source.columns.labels.tolist() == [label_of(each) for each in metadata]
    assert source.columns.weights.tolist() == [weight_of(each) for each in metadata]
    ids = np.array([4, 1])
    taken = source.columns.take(ids)
    assert list(taken.captions) == [metadata[i]["captions"] for i in ids]
    joined = Columns.joined([taken, source.columns])
    assert joined.weights.tolist() == [*taken.weights, *source.columns.weights]
    assert list(joined.captions) == [*taken.captions, *source.columns.captions]


def test_metadata_is_read_once_and_not_for_items(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    real = ShardSource.metadata
    monkeypatch.setattr(ShardSource, "metadata", lambda source, index: reads.append(index) or real(source, index))
    pictures = PictureDataset(folder, SIZE)
    assert len(pictures.weights) == len(pictures) and pictures.all_captions()
    for index in range(len(pictures)):
        assert pictures.item(index, generator(0))["caption"].startswith(f"picture {index}")
    assert sorted(reads) == list(range(len(pictures)))
