"""Pictures of many shapes, from files to a trained model: crops, size conditioning, batches."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import CONFIGS
from PIL import Image

from autoencoder.config import AutoencoderConfig
from autoencoder.kl import KLAutoencoder
from ldm.data.cache.latents import LatentDataset
from ldm.data.pictures.buckets import BucketConfig, assign, bucket_shapes, cut_off
from ldm.data.pictures.dataset import PictureDataset
from ldm.data.sources.webdataset import Sample, write_shard
from ldm.io.folder.autoencoder import load_autoencoder, save_autoencoder
from ldm.training.batches.loader import BatchLoader, spread_batch
from ldm.training.batches.sample_order import generator_for
from ldm.training.stages.config_file import load_run
from ldm.training.stages.train import train

DIGITS = CONFIGS / "digits"
SHAPES = [(40, 60), (60, 40), (48, 48), (36, 64), (50, 40), (90, 44)]
BUCKETS = BucketConfig(step=4)
SIZE, COUNT, TORN = 16, 42, 7
TINY = [
    "data.size=16",
    "data.buckets.step=4",
    "data.held_out=0.1",
    "loop.batch_size=4",
    "loop.samples=24",
    "loop.previews=2",
    "loop.log_every=4",
    "loop.trackers=[]",
]


def pixels_of(index: int) -> np.ndarray:
    """Rows are encoded in red, columns in green, pictures in blue."""
    height, width = SHAPES[index % len(SHAPES)]
    rows, columns = np.linspace(0, 255, height)[:, None], np.linspace(0, 255, width)[None]
    return np.stack(np.broadcast_arrays(rows, columns, 5.0 * index), -1).round().astype(np.uint8)


@pytest.fixture(scope="module")
def road(tmp_path_factory) -> Path:
    """Pictures of six shapes, one of them torn, and an autoencoder that saw nothing yet."""
    root, samples = tmp_path_factory.mktemp("road"), []
    for i in range(COUNT):
        encoded = io.BytesIO()
        Image.fromarray(pixels_of(i)).save(encoded, "PNG")
        content = encoded.getvalue() if i != TORN else encoded.getvalue()[:-40]
        samples.append(Sample(f"{i:06d}", content, {"captions": [f"picture {i}", f"number {i}"], "label": i % 10}))
    write_shard(root / "data" / "train" / "000000.tar", samples)
    torch.manual_seed(0)
    autoencoder = KLAutoencoder(AutoencoderConfig(widths=(8, 8), blocks_per_level=1, norm_groups=4))
    save_autoencoder(autoencoder, root / "autoencoder" / "vae", 0.5)
    return root


@pytest.fixture(scope="module", params=["true", "false"], ids=["cached pixels", "live pixels"])
def pictures(road, request) -> PictureDataset:
    return PictureDataset(road / "data", SIZE, cache_pictures=request.param, buckets=BUCKETS)


def test_each_picture_has_the_shape_that_loses_least_and_its_middle_is_seen(pictures):
    shapes = bucket_shapes(SIZE, BUCKETS)
    sizes = np.array([SHAPES[i % len(SHAPES)] for i in range(COUNT)])
    whole = np.arange(COUNT) != TORN
    assert np.array_equal(pictures.groups[whole], assign(sizes, shapes)[whole]) and len(set(pictures.groups)) >= 3
    for i in (0, 1, 2, 3, 4, 5, 20):
        image, (height, width) = pictures.image(i), shapes[pictures.groups[i]]
        assert image.shape == (3, height, width) == (3, *pictures.shape(i))
        top, bottom = image[0, 0].mean(), image[0, -1].mean()
        left, right = image[1, :, 0].mean(), image[1, :, -1].mean()
        assert abs(top + bottom) < 0.05 and abs(left + right) < 0.05, "as much is cut on either side"
        lost = cut_off(sizes[i], shapes[pictures.groups[i]])
        seen = ((bottom - top) / 2 * height / (height - 1)) * ((right - left) / 2 * width / (width - 1))
        assert seen == pytest.approx(1 - lost, abs=0.06)


def test_sdxl_is_conditioned_on_original_size_crop_and_shape(pictures):
    for i in range(6):
        item, (height, width) = pictures.item(i, generator_for(0, i)), SHAPES[i]
        high, wide = item["image"].shape[1:]
        scale = max(high / height, wide / width)
        crop = [round((scale * height - high) / 2), round((scale * width - wide) / 2)]
        assert item["sizes"].tolist() == [height, width, *crop, high, wide]


def test_a_torn_picture_is_replaced_in_its_own_shape(pictures):
    item = pictures.item(TORN, generator_for(0, TORN))
    assert item["image"].shape == (3, *pictures.shape(TORN)) and item["label"] != TORN
    assert item["sizes"].tolist()[4:] == list(pictures.shape(TORN))


def test_random_crops_have_the_shape_too(road):
    pictures = PictureDataset(road / "data", SIZE, crop_fraction=1.0, buckets=BUCKETS)
    assert all(pictures.item(i, generator_for(0, i))["image"].shape == (3, *pictures.shape(i)) for i in range(6))
    item = pictures.item(0, generator_for(0, 0))
    assert item["sizes"].tolist()[:2] == list(SHAPES[0]) and item["sizes"].tolist()[4:] == list(pictures.shape(0))


def test_latents_have_the_shapes_and_say_what_the_pictures_say(road, pictures):
    autoencoder, _ = load_autoencoder(road / "autoencoder")
    latents = LatentDataset(pictures, autoencoder, road / "latents")
    assert np.array_equal(latents.groups, pictures.groups)
    for i in range(COUNT):
        mine, theirs = latents.item(i, generator_for(0, i)), pictures.item(i, generator_for(0, i))
        assert mine["mean"].shape == (4, *(edge // 2 for edge in pictures.shape(i)))
        assert mine["caption"] == theirs["caption"] and torch.equal(mine["sizes"], theirs["sizes"])


def test_every_micro_batch_of_every_process_stacks_and_an_epoch_sees_all(road, pictures):
    run = load_run(DIGITS / "ldm_labels.yaml", [f"data.folder={road / 'data'}", f"output={road / 'unused'}", *TINY])
    seen: list[int] = []
    for rank in range(2):
        for step in BatchLoader(pictures, run.loop, processes=2, rank=rank).steps(0, torch.device("cpu")):
            assert len({batch["image"].shape for batch in step}) == 1
    loader = BatchLoader(pictures, run.loop, processes=1, rank=0)
    for start in range(0, 2 * COUNT, 4):
        ids = loader.sample_ids(start)
        assert len({pictures.shape(i) for i in ids}) == 1
        seen += ids
    counts = np.bincount(seen, minlength=COUNT)
    assert counts.max() <= 3 and counts.min() >= 1
    assert spread_batch(pictures, 3, 0, torch.device("cpu"))["image"].shape[0] == 3


def _run(road: Path, output: Path, *more: str):
    where = [f"data.folder={road / 'data'}", f"autoencoder={road / 'autoencoder'}", f"output={output}"]
    shape = ["unet.widths=[8,8]", "unet.num_heads=[1,1]", "unet.norm_groups=4", "diffusion.steps=2"]
    return load_run(DIGITS / "ldm_labels.yaml", [*where, *TINY, *shape, *more])


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [[], ["cache_latents=false", "data.crop_fraction=0.5"], ["diffusion.concat=inpainting", "unet.in_channels=9"]],
    ids=["cached", "live crops", "inpainting"],
)
def test_the_denoiser_trains_on_latents_of_different_shapes(words, road, tmp_path):
    trainer = train(_run(road, tmp_path, *words))
    assert trainer.samples_seen == 24 and (tmp_path / "export" / "unet").is_dir()
    losses = [json.loads(line)["unet/loss"] for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert len(losses) == 6 and all(0 < loss < 100 for loss in losses)


def test_the_autoencoder_trains_on_different_shapes(road, tmp_path):
    small = ["autoencoder.widths=[8,8]", "autoencoder.norm_groups=4", "loss.perceptual_weight=0"]
    where = [f"data.folder={road / 'data'}", f"output={tmp_path}"]
    trainer = train(load_run(DIGITS / "autoencoder.yaml", [*where, *TINY, *small]))
    assert trainer.samples_seen == 24
    assert json.loads((tmp_path / "export" / "vae" / "config.json").read_text())["scaling_factor"] > 0
    assert list((tmp_path / "previews").glob("*.png"))


def test_losses_from_cached_latents_are_the_live_ones(road, tmp_path):
    runs = [
        train(_run(road, tmp_path / name, f"cache_latents={name}", "loop.precision=fp32")) for name in ("true", "false")
    ]
    lines = [[json.loads(line) for line in (run.folder / "stats.jsonl").read_text().splitlines()] for run in runs]
    for mine, theirs in zip(*lines, strict=True):
        assert mine["unet/loss"] == pytest.approx(theirs["unet/loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["data.buckets.step=3", "data.size=15"],
            "data.buckets.step=3 is not a multiple of the autoencoder's factor 2",
        ),
        (["data.buckets.stop=3"], "unknown setting data.buckets.stop; did you mean 'step'"),
        (["data.buckets.step=5"], "data.size=16 is not a multiple of data.buckets.step=5; use 15 or 20"),
    ],
)
def test_buckets_that_cannot_be_are_refused(words, message, road, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(_run(road, tmp_path / "run", *words))
    assert not (tmp_path / "run").exists()


def test_clip_reads_squares(road, tmp_path):
    with pytest.raises(ValueError, match=r"data.buckets.step=4: CLIP's picture tower reads squares; use 0"):
        load_run(
            DIGITS / "clip.yaml", [f"data.folder={road / 'data'}", f"output={tmp_path}", "data.size=16"] + TINY[1:2]
        )
