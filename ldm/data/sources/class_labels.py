"""Classes of pictures as a network knows them: named by folders, counted, and checked before a training."""

import os
from collections.abc import Collection
from pathlib import Path

from ldm.data.sources.label_and_weight import NO_LABEL
from ldm.data.sources.mixture import SourceMixture

METADATA, FOLDERS = "metadata", "folders"
LABELS = (METADATA, FOLDERS)


def class_folders(folder: Path) -> tuple[str, ...]:
    """The folders in `folder`, sorted as Python sorts texts, without hidden ones; a class's number is its place here.

    Raises:
        ValueError: there is none.
    """
    with os.scandir(folder) as entries:
        found = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise ValueError(f"labels='folders': there are no folders in {folder}; put the pictures of each class into one")
    return tuple(found)


def outside_classes(key: str, classes: Collection[str]) -> str:
    """Faults in the place of a picture, given its path in the data; empty if it lies in a class folder."""
    if key.partition("/")[0] in classes:
        return ""
    return (
        f"lies in none of the {len(classes)} class folders, {min(classes)} to {max(classes)}; move it into one, or"
        " leave out labels: folders"
    )


def require_labels(source: SourceMixture, num_classes: int) -> None:
    """Refuse pictures whose classes a network of labels does not have.

    Args:
        source: the pictures.
        num_classes: rows of the network's table. The last one stands for "no class".

    Raises:
        ValueError: folders name another number of classes, or a picture has no label or one out of range.
    """
    classes = source.classes
    if classes is not None and len(classes) + 1 != num_classes:
        raise ValueError(
            f"unet.num_classes={num_classes} does not fit the {len(classes)} class folders, {classes[0]} to"
            f" {classes[-1]}, and one for no class; use unet.num_classes={len(classes) + 1}"
        )
    for i in range(len(source)):
        label = int(source.columns.labels[i])
        if label == NO_LABEL:
            raise ValueError(
                f"{source.where(i)} has no label, which unet.num_classes={num_classes} needs of every picture; write"
                " labels into the metadata, or set labels: folders in data.sources"
            )
        if not 0 <= label < num_classes - 1:
            raise ValueError(
                f"{source.where_metadata(i)}: label {label} is not among the {num_classes - 1} classes, 0 to"
                f" {num_classes - 2}, of unet.num_classes={num_classes}, whose last one stands for no class;"
                " correct the label or unet.num_classes"
            )
