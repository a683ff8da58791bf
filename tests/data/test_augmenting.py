"""Augmentations: mirrored, cut and tinted by the sample's draws alone; captions keep what must stay."""

from pathlib import Path

import numpy as np
import pytest
import torch
from picture_shards import SIZE, folder, generator, truth  # noqa: F401  (folder is a fixture)

from ldm.data.pictures.augmenting import AugmentConfig, tint, vary_caption
from ldm.data.pictures.dataset import PictureDataset
from ldm.training.stages.datasets import DataConfig
from ldm.training.stages.latent_diffusion import LatentDiffusionRun

EVERYTHING = AugmentConfig(flip=0.5, crop_scale=0.5, colour=0.2, shuffle_tags=True, drop_tags=0.3)


def test_pictures_are_mirrored_in_their_share(folder: Path) -> None:
    plain = PictureDataset(folder, 2 * SIZE)
    for share in (0.3, 1.0):
        dataset = PictureDataset(folder, 2 * SIZE, augment=AugmentConfig(flip=share))
        mirrored = 0
        for seed in range(200):
            item, wanted = dataset.item(1, generator(seed)), plain.item(1, generator(seed))
            is_mirrored = torch.equal(item["image"], truth(1).flip(2))
            assert is_mirrored or torch.equal(item["image"], truth(1))
            assert item["caption"] == wanted["caption"]
            mirrored += is_mirrored
        assert abs(mirrored / 200 - share) < 0.1


def test_random_squares_are_of_the_picture_and_of_the_right_area(folder: Path) -> None:
    """On a picture whose two colours are its coordinates, a sample tells which part of it it is."""
    import io

    from PIL import Image

    from ldm.data.sources.webdataset import Sample, write_shard

    rows, columns = np.mgrid[0:96, 0:96] * (255 / 96)
    encoded = io.BytesIO()
    Image.fromarray(np.stack([rows, columns, rows * 0], -1).astype(np.uint8)).save(encoded, "PNG")
    write_shard(folder / "ramp" / "0.tar", [Sample("0", encoded.getvalue(), {"captions": ["x"]})])
    dataset = PictureDataset(folder, 32, split="ramp", augment=AugmentConfig(crop_scale=0.25))
    edges, corners = [], []
    for seed in range(150):
        item = dataset.item(0, generator(seed))
        red, green = item["image"][0] / 2 + 0.5, item["image"][1] / 2 + 0.5
        height, width = ((float(x.max() - x.min()) * 32 / 31) for x in (red, green))
        assert abs(height - width) < 0.04 and 0.46 < height < 1.04
        assert float(green.diff(dim=1).min()) > 0  # never mirrored
        edges.append(height)
        corners.append((float(red.min()), float(green.min())))
        sizes = item["sizes"].tolist()
        assert sizes[:2] == [96, 96] and sizes[4:] == [32, 32]
        assert sizes[2] == pytest.approx(float(red.min()) / height * 32, abs=2)
        assert sizes[3] == pytest.approx(float(green.min()) / width * 32, abs=2)
    areas = np.square(edges)
    assert abs(areas.mean() - 0.625) < 0.06 and areas.min() < 0.35 and areas.max() > 0.9
    assert min(corners)[0] < 0.02 and max(corners)[0] > 0.3


def test_everything_is_a_function_of_the_generator_cached_or_not(folder: Path) -> None:
    one, other = (PictureDataset(folder, SIZE, cache_pictures=mode, augment=EVERYTHING) for mode in ("true", "false"))
    for seed in range(20):
        first, second = one.item(3, generator(seed)), other.item(3, generator(seed))
        assert torch.equal(first["image"], second["image"]) and first["caption"] == second["caption"]
        assert torch.equal(first["sizes"], second["sizes"])
        assert one.words(3, generator(seed))["caption"] == first["caption"]
    assert torch.equal(one.image(3), other.image(3))
    assert len({float(one.item(3, generator(seed))["image"].sum()) for seed in range(20)}) == 20


def test_no_augmentation_changes_the_draws_of_another(folder: Path) -> None:
    states = set()
    for augment in (None, EVERYTHING, AugmentConfig(flip=1)):
        draws = generator(3)
        PictureDataset(folder, SIZE, augment=augment).item(0, draws)
        states.add(bytes(draws.get_state().tolist()))
    assert len(states) == 1


def test_tint_changes_brightness_contrast_and_saturation() -> None:
    image = torch.rand(3, 6, 6, generator=generator(0)) * 0.6 - 0.3
    assert torch.allclose(tint(image, 0.0, [0.1, 0.9, 0.4]), image, atol=1e-6)
    unit = image / 2 + 0.5
    brighter = tint(image, 0.2, [1.0, 0.5, 0.5]) / 2 + 0.5
    torch.testing.assert_close(brighter, unit * 1.2)
    grey = tint(image, 0.999999, [0.5, 0.5, 0.0])
    assert float((grey.max(0).values - grey.min(0).values).max()) < 1e-4
    flatter = tint(image, 0.5, [0.5, 0.0, 0.5]) / 2 + 0.5
    luma = torch.tensor([0.299, 0.587, 0.114])
    means = [float((x * luma[:, None, None]).sum(0).mean()) for x in (flatter, unit)]
    assert means[0] == pytest.approx(means[1], abs=1e-5)
    assert float(flatter.std()) == pytest.approx(0.5 * float(unit.std()), rel=0.2)


def test_tags_are_shuffled_behind_the_kept_ones_and_left_out_in_their_share() -> None:
    caption = "cat, red , small, old, wild"
    shuffled = {vary_caption(caption, AugmentConfig(shuffle_tags=True, keep_tags=1), u / 500) for u in range(500)}
    assert all(each.startswith("cat, ") for each in shuffled) and len(shuffled) == 24
    assert {tuple(sorted(each.split(", "))) for each in shuffled} == {("cat", "old", "red", "small", "wild")}
    dropping = AugmentConfig(drop_tags=0.25, keep_tags=1)
    left = [vary_caption(caption, dropping, u / 2000).split(", ") for u in range(2000)]
    assert all(
        each[0] == "cat" and each == [tag for tag in ["cat", "red", "small", "old", "wild"] if tag in each]
        for each in left
    )
    assert np.mean([len(each) - 1 for each in left]) == pytest.approx(3, abs=0.1)
    alone = [vary_caption("a, b", AugmentConfig(drop_tags=1.0), u / 50) for u in range(50)]
    assert set(alone) <= {"a", "b"}
    assert vary_caption("a , b", AugmentConfig(), 0.3) == "a , b"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip": 1.5}, "augment.flip=1.5 is out of range"),
        ({"crop_scale": 0.0}, "augment.crop_scale=0.0 is out of range"),
        ({"colour": 1.0}, "augment.colour=1.0 is out of range"),
        ({"drop_tags": -0.1}, "augment.drop_tags=-0.1 is out of range"),
        ({"keep_tags": -1}, "augment.keep_tags=-1 is negative"),
        ({"keep_tags": 1}, "needs shuffle_tags=true"),
    ],
)
def test_values_out_of_range_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**settings)


def test_cached_latents_refuse_what_changes_pixels_and_take_what_changes_words(folder: Path) -> None:
    for settings in ({"flip": 0.5}, {"crop_scale": 0.5}, {"colour": 0.1}):
        data = DataConfig(folder="x", augment=AugmentConfig(**settings))
        with pytest.raises(ValueError, match=r"data.augment changes pictures .*; use cache_latents=false"):
            LatentDiffusionRun(output="x", data=data)
        LatentDiffusionRun(output="x", data=data, cache_latents=False)
    LatentDiffusionRun(output="x", data=DataConfig(folder="x", augment=AugmentConfig(shuffle_tags=True)))
    with pytest.raises(ValueError, match=r"crop_fraction=0.5 cannot be combined with augment.crop_scale"):
        PictureDataset(folder, SIZE, crop_fraction=0.5, augment=AugmentConfig(crop_scale=0.5))


def test_buckets_are_cut_and_mirrored_in_their_own_shape(folder: Path) -> None:
    from ldm.data.pictures.buckets import BucketConfig

    plain = PictureDataset(folder, 2 * SIZE, buckets=BucketConfig(step=4))
    mirrored = PictureDataset(folder, 2 * SIZE, buckets=BucketConfig(step=4), augment=AugmentConfig(flip=1.0))
    cut = PictureDataset(folder, 2 * SIZE, buckets=BucketConfig(step=4), augment=AugmentConfig(crop_scale=0.5))
    for i in range(len(plain)):
        assert torch.equal(mirrored.item(i, generator(i))["image"], plain.image(i).flip(2))
        item = cut.item(i, generator(i))
        assert item["image"].shape == plain.image(i).shape == cut.image(i).shape
        assert torch.equal(item["sizes"][4:], torch.tensor(plain.shape(i)).float())


def test_states_of_captions_that_change_are_not_cached() -> None:
    data = DataConfig(folder="x", augment=AugmentConfig(drop_tags=0.1))
    LatentDiffusionRun(output="x", data=data)
    with pytest.raises(ValueError, match=r"data.augment changes captions .*; use cache_text=false"):
        LatentDiffusionRun(output="x", data=data, cache_text="true")
