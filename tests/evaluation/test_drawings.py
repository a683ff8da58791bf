"""Laws of the reading by the nearest real drawing, on features that are chosen by hand."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from ldm.data.sources.webdataset import Sample, write_shard
from ldm.evaluation.judge.drawings import (
    Reading,
    RealDrawings,
    disturbed,
    nearest_scores,
    thing_views,
    view_features,
)
from ldm.evaluation.judge.expected import VIEWS, Expected
from ldm.evaluation.judge.scores import NearestScores, Rate
from ldm.evaluation.judge.train import load_splits
from ldm.evaluation.metrics.features import FEATURE_SIZE, FeatureExtractor, nearest, unit_length

CELLS = [("fox", "flat"), ("fox", "3d"), ("hen", "flat"), ("hen", "3d"), ("owl", "flat")]


def _turned(*degrees: float) -> np.ndarray:
    """Vectors (N, 2) of many lengths in these directions."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * np.arange(1, len(degrees) + 1)[:, None]


def _drawings() -> RealDrawings:
    return RealDrawings(_turned(0, 10, 40, 60, 80), CELLS, [(0, i) for i in range(len(CELLS))])


def test_a_real_drawing_reads_as_itself():
    drawings = _drawings()
    for (concept, style), direction in zip(CELLS, _turned(0, 10, 40, 60, 80), strict=True):
        found = drawings.read(direction[None], Expected((concept,), style))
        assert (found.concepts, found.styles) == ((concept,), (style,))
        assert found.distances == pytest.approx((0,), abs=1e-12)


def test_distances_are_one_minus_the_cosine():
    found = _drawings().read(_turned(33), Expected(("fox",), "flat"))
    assert (found.concepts, found.styles) == (("hen",), ("flat",))
    assert found.distances == pytest.approx((1 - np.cos(np.radians(33)),))
    assert found.between_styles == pytest.approx((1 - np.cos(np.radians(10)),))


def test_a_thing_in_one_style_has_no_distance_between_styles():
    found = _drawings().read(_turned(70), Expected(("owl",), "flat"))
    assert found.between_styles == (None,)
    assert found.distances[0] is not None
    unknown = _drawings().read(_turned(70), Expected(("cow",), "flat"))
    assert (unknown.distances, unknown.between_styles) == ((None,), (None,))


def test_each_thing_of_a_pair_is_read_from_its_own_half():
    found = _drawings().read(_turned(61, 1), Expected(("hen", "fox"), "flat", arrangement="beside"))
    assert (found.concepts, found.styles) == (("hen", "fox"), ("3d", "flat"))


def test_several_of_a_thing_are_read_from_the_nearest_view():
    expected = Expected(("hen",), "3d", arrangement="several")
    directions = [70.0] * len(VIEWS["several"])
    directions[4] = 59.9
    assert _drawings().read(_turned(*directions), expected).concepts == ("hen",)


def test_scores_are_counted_by_hand():
    readings = [
        Reading(("fox",), ("flat",), (0.1,), (0.4,)),
        Reading(("hen",), ("flat",), (0.5,), (0.4,)),
        Reading(("fox", "hen"), ("flat", "flat"), (0.1, 0.3), (0.2, 0.4)),
        Reading(("hen", "fox"), ("flat", "3d"), (0.4, 0.4), (0.2, None)),
    ]
    expected = [*[Expected(("fox",), "flat")] * 2, *[Expected(("fox", "hen"), "flat")] * 2]
    found = nearest_scores(readings, expected)
    assert (found.concept, found.style, found.in_place) == (Rate(1 / 2, 2), Rate(3 / 4, 4), Rate(1 / 2, 2))
    assert found.closeness.value == pytest.approx(1 - (0.1 + 0.5 + 0.1 + 0.3 + 0.4) / (0.4 + 0.4 + 0.2 + 0.4 + 0.2))
    assert found.closeness.n == 5


def test_closeness_is_one_for_the_drawing_and_zero_for_another_style():
    drawings, expected = _drawings(), [Expected(("fox",), "flat"), Expected(("hen",), "flat")]
    same, other = (
        nearest_scores([drawings.read(one[None], e) for one, e in zip(views, expected, strict=True)], expected)
        for views in (_turned(0, 40), _turned(10, 60))
    )
    assert same.closeness.value == pytest.approx(1)
    assert other.closeness.value == pytest.approx(0)


def test_a_twin_is_as_good():
    reading, expected = Reading(("walker",), ("blob",), (None,), (None,)), Expected(("man",), "blob")
    assert nearest_scores([reading], [expected]) == NearestScores(Rate(0.0, 1), Rate(1.0, 1))
    assert nearest_scores([reading], [expected], {("man", "blob"): ("walker",)}).concept == Rate(1.0, 1)


def test_as_many_readings_as_pictures():
    with pytest.raises(ValueError, match="0 readings for 1 pictures"):
        nearest_scores([], [Expected(("fox",))])


def test_nearest_is_the_largest_cosine_whatever_the_length():
    features, others = unit_length(_turned(5, 50)), unit_length(_turned(1, 45, 90))
    numbers, cosines = nearest(features, others)
    assert numbers.tolist() == [0, 1]
    assert cosines == pytest.approx(np.cos(np.radians([4, 5])))
    with pytest.raises(ValueError, match="no picture to be near to"):
        nearest(features, others[:0])


def test_views_of_things_leave_out_the_whole_of_a_pair():
    assert thing_views(Expected(("a", "b"), arrangement="beside")) == [((1, 0), 0), ((1, 2), 1)]
    assert thing_views(Expected(("a",))) == [(None, 0)]


def test_a_data_set_of_scenes_alone_has_no_drawings(tmp_path: Path):
    encoded = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(encoded, "PNG")
    meta = {"concept": "a", "objects": ["a"], "kind": "count", "count": 2, "captions": ["two a"]}
    write_shard(tmp_path / "train" / "000000.tar", [Sample("000000", encoded.getvalue(), meta)])
    assert len(RealDrawings.of(load_splits(tmp_path, 32), FeatureExtractor(), tmp_path / ".cache")) == 0


def test_disturbed_pictures_are_others_but_hardly():
    picture = torch.nn.functional.interpolate(torch.rand(2, 3, 6, 6) * 2 - 1, size=(64, 64), mode="bilinear")
    found = disturbed(picture.clamp(-1, 1))
    assert found.shape == picture.shape
    assert 0.005 < (found - picture).abs().mean() < 0.1
    assert (found[..., 1:, 1:] - picture[..., :-1, :-1]).abs().mean() < (found - picture).abs().mean()


def test_real_pictures_are_nearest_to_their_own_drawings(tmp_path: Path):
    """With the ImageNet network: painted things in two colours, and a pair of them side by side."""

    def paint(concept: str, colour: str, draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int]) -> None:
        {"disc": draw.ellipse, "square": draw.rectangle}[concept](box, fill=colour)

    def sample(number: int, things: list[str], colour: str) -> Sample:
        picture, encoded = Image.new("RGB", (256, 256), "white"), io.BytesIO()
        draw = ImageDraw.Draw(picture)
        boxes = [(20, 20, 235, 235)] if len(things) == 1 else [(10, 74, 117, 181), (138, 74, 245, 181)]
        for concept, box in zip(things, boxes, strict=True):
            paint(concept, colour, draw, box)
        picture.save(encoded, "PNG")
        meta = {"concept": "+".join(things), "style": colour, "kind": "icon", "captions": ["x"]}
        if len(things) > 1:
            meta |= {"objects": things, "kind": "pair", "count": 2}
        return Sample(f"{number:06d}", encoded.getvalue(), meta)

    cells = [(concept, colour) for concept in ("disc", "square") for colour in ("red", "navy")]
    icons = [sample(i, [concept], colour) for i, (concept, colour) in enumerate(cells)]
    write_shard(tmp_path / "train" / "000000.tar", [*icons, sample(9, ["square", "disc"], "navy")])
    extract = FeatureExtractor()
    drawings = RealDrawings.of(load_splits(tmp_path, FEATURE_SIZE), extract, tmp_path / ".cache")
    assert len(drawings) == 4
    (split,) = load_splits(tmp_path, 256)
    metas = [split.metadata(i) for i in range(5)]
    expected = [Expected.of(meta) for meta in metas]
    images = disturbed(torch.stack([split.image(i) for i in range(5)]))
    readings = [
        drawings.read(own, one) for own, one in zip(view_features(extract, images, expected), expected, strict=True)
    ]
    found = nearest_scores(readings, expected)
    assert (found.concept, found.style, found.in_place) == (Rate(1.0, 4), Rate(1.0, 5), Rate(1.0, 1))
    assert found.closeness.value > 0.5
