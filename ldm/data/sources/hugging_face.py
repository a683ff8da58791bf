"""Data sets of Hugging Face's `datasets`: saved ones, Parquet files, and those of the hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm.data.sources.addresses import reaching
from ldm.data.sources.caption_fields import CAPTION_FIELDS, captions_of
from ldm.data.sources.metadata_table import METADATA_FILES
from ldm.data.sources.source import digest
from ldm.naming import nearest

if TYPE_CHECKING:
    from datasets import Dataset

HUB = "hub:"
_SAVED = ("dataset_dict.json", "dataset_info.json")


class HuggingFaceSource:
    """One split of a data set of `datasets`.

    Args:
        table: the split.
        name: of the data set, for people.
        image_column: that holds the pictures; empty takes the one column of pictures.
        caption_column: that holds a caption or a list of them; empty takes `captions`, `caption` or `text`.
        label_column: that holds class numbers; empty takes `label`, if there is one.

    Raises:
        ValueError: there is no such column; the nearest one is named.
    """

    def __init__(
        self, table: "Dataset", name: str, image_column: str = "", caption_column: str = "", label_column: str = ""
    ) -> None:
        from datasets import Image

        self._name = name
        self._image = image_column or _only_picture_column(table.features, name)
        self._caption = caption_column or next((column for column in CAPTION_FIELDS if column in table.features), "")
        self._label = label_column or ("label" if "label" in table.features else "")
        named = {"image_column": image_column, "caption_column": caption_column, "label_column": label_column}
        for field, column in named.items():
            if column and column not in table.features:
                raise ValueError(f"{field}={column!r} is no column of {name}; {nearest(column, table.features)}")
        self.fingerprint = digest(str(table._fingerprint), self._image)
        self._pictures = table.select_columns([self._image]).cast_column(self._image, Image(decode=False))
        columns = [column for column in (self._caption, self._label, "weight", "kind") if column in table.features]
        self._metadata = table.select_columns(columns).with_format("arrow")[:]

    def __len__(self) -> int:
        return len(self._pictures)

    def key(self, index: int) -> str:
        """The row's number."""
        return str(index)

    def where(self, index: int) -> str:
        """The data set and the row."""
        return f"{self._name} row {index}"

    def where_metadata(self, index: int) -> str:
        """The data set and the row."""
        return self.where(index)

    def metadata(self, index: int) -> dict[str, Any]:
        """`captions`, and `label`, `weight` and `kind` if there are such columns."""
        row = {name: self._metadata.column(name)[index].as_py() for name in self._metadata.column_names}
        captions = captions_of(row, field=self._caption) if self._caption else []
        kept = {name: row[name] for name in ("weight", "kind") if row.get(name) is not None}
        label = {"label": row[self._label]} if self._label and row[self._label] is not None else {}
        return {**kept, **label, "captions": captions}

    def picture(self, index: int) -> bytes:
        """The row's picture.

        Raises:
            ValueError: it is missing.
        """
        cell = self._pictures[index][self._image]
        if cell is None:
            raise ValueError("the row has no picture")
        encoded = cell["bytes"]
        if encoded is None:
            try:
                encoded = Path(cell["path"]).read_bytes()
            except OSError as error:
                raise ValueError(f"{cell['path']}: {error.strerror or error}") from error
        return encoded


def is_hugging_face(path: str) -> bool:
    """Whether `path` is `hub:NAME`, a folder of `save_to_disk`, or Parquet: a file, or a folder that holds some."""
    if path.startswith(HUB) or path.endswith(".parquet"):
        return True
    folder = Path(path)
    return folder.is_dir() and (any((folder / name).is_file() for name in _SAVED) or bool(_parquet(folder)))


def load_splits(path: str, subset: str = "") -> Mapping[str, "Dataset"]:
    """Every split of a data set by name; `train` for what has none.

    Raises:
        OSError: it is not there, or the hub cannot be reached.
    """
    import datasets

    with reaching(path):
        if path.startswith(HUB):
            loaded = datasets.load_dataset(path.removeprefix(HUB), subset or None)
        elif files := [path] if path.endswith(".parquet") else _parquet(Path(path)):
            loaded = datasets.load_dataset("parquet", data_files=_by_split(files))
        else:
            loaded = datasets.load_from_disk(path)
    return loaded if isinstance(loaded, Mapping) else {"train": loaded}


def _parquet(folder: Path) -> list[str]:
    files = sorted(map(str, [*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]))
    return [file for file in files if Path(file).name not in METADATA_FILES]  # that one describes pictures beside it


def _by_split(files: list[str]) -> dict[str, list[str]]:
    """`train-00000-of-00002.parquet` belongs to `train`, as the hub names them; a name without a number too."""
    splits: dict[str, list[str]] = {}
    for file in files:
        stem = Path(file).stem
        splits.setdefault(stem.split("-")[0] if "-of-" in stem else "train", []).append(file)
    return splits


def _only_picture_column(features: Mapping[str, Any], name: str) -> str:
    from datasets import Image

    found = [column for column, feature in features.items() if isinstance(feature, Image)]
    if len(found) != 1:
        there = f"pictures in {', '.join(found)}" if found else f"no column of pictures among {', '.join(features)}"
        raise ValueError(f"{name} has {there}; name one in image_column")
    return found[0]
