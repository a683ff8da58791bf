"""Buckets: shapes of about equal area, and pictures that lose next to nothing in them."""

import numpy as np
import pytest

from ldm.data.pictures.buckets import BucketConfig, assign, bucket_shapes, cut_off

CAMERAS = [(3024, 4032), (2000, 3000), (1080, 1920), (1080, 1080), (1080, 1350), (768, 1024), (736, 1104), (630, 1200)]
CASES = [(1024, 64), (1024, 32), (512, 64), (512, 32), (256, 16), (64, 8), (64, 4)]


def mixed_sizes(count: int = 2000) -> np.ndarray:
    """As people's folders have them: half from cameras, telephones and the web, both ways up; half cut at will."""
    random = np.random.default_rng(0)
    usual = np.array(CAMERAS)[random.integers(0, len(CAMERAS), count // 2)]
    turned = random.random(len(usual)) < 0.5
    usual[turned] = usual[turned, ::-1]
    edge, log_ratio = random.uniform(400, 3000, count // 2), random.normal(0, 0.35, count // 2)
    at_will = np.stack([edge * np.exp(log_ratio / 2), edge * np.exp(-log_ratio / 2)], 1).astype(int)
    return np.concatenate([usual, at_will])


@pytest.mark.parametrize(("size", "step"), CASES)
def test_at_most_5_percent_of_a_mixed_set_is_cut_off(size, step):
    sizes, shapes = mixed_sizes(), bucket_shapes(size, BucketConfig(step=step))
    lost = cut_off(sizes, shapes[assign(sizes, shapes)])
    in_squares = cut_off(sizes, np.array([size, size]))
    print(f"size {size} step {step}: {len(shapes)} shapes cut off {lost.mean():.2%}, squares {in_squares.mean():.1%}")
    assert lost.mean() <= 0.05 and in_squares.mean() > 0.25
    assert (lost * sizes.prod(1)).sum() <= 0.05 * sizes.prod(1).sum()  # of all pixels too
    if step * 16 <= size:
        assert lost.max() <= 0.05  # not one picture loses more


@pytest.mark.parametrize(("size", "step"), CASES)
def test_shapes_keep_to_the_area_the_step_and_the_edges(size, step):
    shapes = bucket_shapes(size, BucketConfig(step=step))
    assert (shapes % step == 0).all() and (shapes.min() >= size // 2) and (shapes.max() <= 2 * size)
    area = shapes.prod(1) / size**2
    assert area.max() == 1 and area.min() >= 0.8
    assert sorted(map(tuple, shapes)) == sorted(map(tuple, shapes[:, ::-1])) and (size, size) in map(tuple, shapes)
    assert len(set(map(tuple, shapes))) == len(shapes)
    narrow = bucket_shapes(size, BucketConfig(step, min_edge=size - step, max_edge=size + step))
    assert narrow.min() == size - step and narrow.max() == size + step


def test_each_picture_is_where_it_loses_least():
    sizes, shapes = mixed_sizes(200), bucket_shapes(256, BucketConfig(step=32))
    for (height, width), bucket in zip(sizes, assign(sizes, shapes), strict=True):
        lost = []
        for high, wide in shapes:  # scale to cover, and count what sticks out
            scale = max(high / height, wide / width)
            lost.append(1 - high * wide / (scale * height * scale * width))
        assert lost[bucket] == pytest.approx(min(lost), abs=1e-12)
        assert cut_off(np.array([height, width]), shapes[bucket]) == pytest.approx(lost[bucket], abs=1e-12)


def test_of_equal_ratios_the_larger_shape_is_taken():
    shapes = np.array([[32, 32], [64, 64], [48, 48]])
    assert assign(np.array([[100, 100], [10, 10]]), shapes).tolist() == [1, 1]


def test_pictures_of_unknown_size_are_square():
    shapes = bucket_shapes(64, BucketConfig(step=16))
    assert shapes[assign(np.array([[0, 0], [0, 5]]), shapes)].tolist() == [[64, 64], [64, 64]]
    assert cut_off(np.array([0, 0]), shapes[0]) == 0


def test_without_a_step_there_is_the_square_alone():
    assert bucket_shapes(48, BucketConfig()).tolist() == [[48, 48]]


@pytest.mark.parametrize(
    ("size", "config", "message"),
    [
        (64, {"step": -1}, "data.buckets.step=-1 is negative"),
        (64, {"max_edge": 128}, "data.buckets.step=0 makes squares"),
        (100, {"step": 64}, "data.size=100 is not a multiple of data.buckets.step=64; use 64 or 128"),
        (64, {"step": 8, "min_edge": 72}, "data.buckets.min_edge=72 to max_edge=128 leaves out the square"),
        (64, {"step": 8, "max_edge": 56}, "data.buckets.min_edge=32 to max_edge=56 leaves out the square"),
    ],
)
def test_shapes_that_cannot_be_are_refused(size, config, message):
    with pytest.raises(ValueError, match=message):
        bucket_shapes(size, BucketConfig(**config))
