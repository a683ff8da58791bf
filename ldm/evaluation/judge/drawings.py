"""A second, stricter reading: which of all real drawings is the picture nearest to?

The features are those of a network that was trained on photographs and has never met these drawings, so it forgives
nothing that the judge has learned to overlook; and it learns nothing from one data set to the next.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.data.pictures.dataset import PictureDataset
from ldm.evaluation.judge.classifier import Twins, look
from ldm.evaluation.judge.expected import VIEWS, WHOLE, Expected, Place
from ldm.evaluation.judge.scores import NearestScores, Rate
from ldm.evaluation.metrics.estimate import Estimate
from ldm.evaluation.metrics.features import FEATURE_SIZE, FeatureExtractor, nearest, stored_features, unit_length
from ldm.evaluation.resizing import resize
from ldm.progress import Progress, silent

_BATCH = 64
_JPEG_QUALITY = 75
Cell = tuple[str, str]


@dataclass(frozen=True)
class Reading:
    """What real drawings say of one picture. Tuples have an entry for each thing, in the order of `Expected.concepts`.

    Attributes:
        concepts, styles: of the drawing that is nearest of all.
        distances: to the drawing of the thing in its style, as 1 - cosine; None where there is none.
        between_styles: the mean of the same from that drawing to the drawings of the thing in other styles.
    """

    concepts: tuple[str, ...]
    styles: tuple[str, ...]
    distances: tuple[float | None, ...]
    between_styles: tuple[float | None, ...]


class RealDrawings:
    """All real drawings of single things.

    Args:
        features: of the drawings, (N, D), of any length.
        cells: concept and style of each.
        ids: split and index of each, as in `Prompt`.
    """

    def __init__(self, features: np.ndarray, cells: Sequence[Cell], ids: Sequence[tuple[int, int]]) -> None:
        self.features = features
        self._units, self._cells = unit_length(features), list(cells)
        self._rows = {place: row for row, place in enumerate(ids)}
        self._of_cell: dict[Cell, list[int]] = {}
        for row, cell in enumerate(cells):
            self._of_cell.setdefault(cell, []).append(row)
        self._styles: dict[str, list[str]] = {}
        for concept, style in self._of_cell:
            self._styles.setdefault(concept, []).append(style)

    @classmethod
    def of(
        cls, splits: Sequence[PictureDataset], extract: FeatureExtractor, cache: Path, progress: Progress = silent
    ) -> "RealDrawings":
        """The drawings of all splits; their features are found once and kept in `cache`."""
        features, cells, ids = [], [], []
        for number, split in enumerate(splits):
            metas = [split.metadata(i) for i in range(len(split))]
            own = [i for i, meta in enumerate(metas) if "objects" not in meta]
            if own:
                features.append(stored_features(extract, split, own, cache, progress))
            cells += [(metas[i]["concept"], metas[i].get("style", "")) for i in own]
            ids += [(number, i) for i in own]
        return cls(np.concatenate(features) if features else np.zeros((0, 1)), cells, ids)

    def __len__(self) -> int:
        return len(self._cells)

    def of_pictures(self, split: int, indices: Sequence[int]) -> np.ndarray:
        """Features (N, D) of the drawings with these indices in a split."""
        return self.features[[self._rows[split, index] for index in indices]]

    def read(self, features: np.ndarray, expected: Expected) -> Reading:
        """The reading of one picture, from the features (V, D) of its views of single things (`thing_views`).

        A thing that is shown by several views is read from the one that is nearest to a drawing.
        """
        views = unit_length(features)
        numbers = np.array([thing for _, thing in thing_views(expected)])
        concepts, styles, distances, between = [], [], [], []
        for number, concept in enumerate(expected.concepts):
            own_views = views[numbers == number]
            rows, cosines = nearest(own_views, self._units)
            found = self._cells[rows[cosines.argmax()]]
            concepts.append(found[0])
            styles.append(found[1])
            cell = (concept, expected.style or "")
            own = self._of_cell.get(cell)
            distances.append(None if own is None else 1 - float((own_views @ self._units[own].T).max()))
            between.append(self._between_styles(cell))
        return Reading(tuple(concepts), tuple(styles), tuple(distances), tuple(between))

    def _between_styles(self, cell: Cell) -> float | None:
        """Mean distance of a drawing to those of the same thing in other styles; None where there are no two."""
        concept, style = cell
        others = [other for other in self._styles.get(concept, []) if other != style]
        if cell not in self._of_cell or not others:
            return None
        own = self._units[self._of_cell[cell]]
        return float(np.mean([1 - (own @ self._units[self._of_cell[concept, other]].T).max() for other in others]))


def thing_views(expected: Expected) -> list[tuple[Place, int]]:
    """The views of a picture that show one thing: where, and the number of the thing."""
    return [(place, thing) for place, thing in VIEWS[expected.arrangement] if thing is not None]


def view_features(extract: FeatureExtractor, images: Tensor, expected: Sequence[Expected]) -> list[np.ndarray]:
    """Features (V, D) of the `thing_views` of pictures (N, 3, H, W) in [-1, 1]."""
    counts = [len(thing_views(one)) for one in expected]
    views = [
        resize(image[None], FEATURE_SIZE) if place is WHOLE else look(resize(image[None], 2 * FEATURE_SIZE), place)
        for image, one in zip(images, expected, strict=True)
        for place, _ in thing_views(one)
    ]
    features = extract(torch.cat(views[k : k + _BATCH]) for k in range(0, len(views), _BATCH))
    return np.split(features, np.cumsum(counts)[:-1])


def disturbed(images: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) in [-1, 1], moved by a pixel along both axes and stored as JPEG of quality 75.

    A real picture that nobody touched would find itself among the drawings.
    """
    moved = torch.nn.functional.pad(images, (1, 0, 1, 0), mode="replicate")[..., :-1, :-1]
    rows = []
    for image in moved:
        pixels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "JPEG", quality=_JPEG_QUALITY)
        rows.append(torch.from_numpy(np.array(Image.open(encoded))).permute(2, 0, 1).float() / 127.5 - 1)
    return torch.stack(rows)


def nearest_scores(
    readings: Sequence[Reading], expected: Sequence[Expected], twins: Twins = MappingProxyType({})
) -> NearestScores:
    """How often the nearest real drawing is the one that the prompt describes, and how close that one is.

    Raises:
        ValueError: there are not as many readings as pictures.
    """
    if len(readings) != len(expected):
        raise ValueError(f"{len(readings)} readings for {len(expected)} pictures")
    both = list(zip(readings, expected, strict=True))
    pairs = [
        (distance, apart)
        for reading in readings
        for distance, apart in zip(reading.distances, reading.between_styles, strict=True)
        if distance is not None and apart is not None
    ]
    values, apart = np.array(pairs).reshape(-1, 2).T
    share = Estimate.ratio(values, apart)
    return NearestScores(
        concept=Rate.of(_right(r, e, twins) for r, e in both if len(e.concepts) == 1),
        style=Rate.of(all(style == e.style for style in r.styles) for r, e in both if e.style),
        in_place=Rate.of(_right(r, e, twins) for r, e in both if len(e.concepts) == 2),
        closeness=share and Estimate(1 - share.value, share.error, share.n),
    )


def _right(reading: Reading, expected: Expected, twins: Mapping[Cell, tuple[str, ...]]) -> bool:
    """Every thing's nearest drawing is of that thing, or of one that its style draws alike."""
    return all(
        found == concept or found in twins.get((concept, expected.style or ""), ())
        for found, concept in zip(reading.concepts, expected.concepts, strict=True)
    )
