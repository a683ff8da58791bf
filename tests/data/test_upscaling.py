import io
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checkout import CONFIGS
from PIL import Image

from autoencoder.config import AutoencoderConfig
from autoencoder.kl import KLAutoencoder
from ldm.data.pictures.dataset import PictureDataset
from ldm.data.sources.webdataset import Sample, write_shard
from ldm.data.upscaling import UpscalingDataConfig, UpscalingDataset
from ldm.io.folder.autoencoder import save_autoencoder
from ldm.io.folder.upscaler import load_upscaler
from ldm.networks.upscaler.config import UpscalerConfig
from ldm.networks.upscaler.model import Upscaler
from ldm.training.objectives.upscaler import measure_upscaler
from ldm.training.stages.config_file import load_run
from ldm.training.stages.train import train

N, SIZE, FACTOR = 6, 32, 4


def samples():
    random = np.random.default_rng(0)
    for i in range(N):
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(file, format="PNG")
        yield Sample(f"{i:06d}", file.getvalue(), {"captions": ["noise"], "label": i, "weight": i + 1.0})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shard(folder / "train" / "000000.tar", samples())
    return PictureDataset(folder, SIZE)


def autoencoder(seed=0):
    torch.manual_seed(seed)
    config = AutoencoderConfig(widths=(8, 8), blocks_per_level=1, norm_groups=2, mid_attention=False)
    return KLAutoencoder(config).eval()


def dataset(source, cache, whole=False, model=None, factor=FACTOR, **settings):
    config = UpscalingDataConfig(size=SIZE, **{"crop": 5, "pictures": 0, **settings})
    return UpscalingDataset(source, model or autoencoder(), cache, factor, config, whole)


def seeded(i=0):
    return torch.Generator().manual_seed(i)


def test_low_is_the_decoded_average_of_high(pictures, tmp_path):
    model = autoencoder()
    pair = dataset(pictures, tmp_path, whole=True, model=model).item(2, seeded())
    assert torch.equal(pair["high"], pictures.image(2))
    with torch.no_grad():
        decoded = model.decode(model.encode(F.avg_pool2d(pair["high"][None], FACTOR)).mean)[0]
    assert pair["low"].shape == (3, SIZE // FACTOR, SIZE // FACTOR)
    torch.testing.assert_close(pair["low"], decoded.clamp(-1, 1), atol=0.03, rtol=0)  # bytes, and perhaps bf16


def test_crops_show_the_same_place_in_both_resolutions(pictures, tmp_path):
    whole = dataset(pictures, tmp_path, whole=True)
    cropped = dataset(pictures, tmp_path, noisy_fraction=0.0, crop=5)
    places = set()
    for seed in range(12):
        pair, full = cropped.item(1, seeded(seed)), whole.item(1, seeded())
        found = [
            (y, x)
            for y in range(4)
            for x in range(4)
            if torch.equal(full["high"][:, 4 * y : 4 * y + 20, 4 * x : 4 * x + 20], pair["high"])
        ]
        assert len(found) == 1
        y, x = found[0]
        assert torch.equal(full["low"][:, y : y + 5, x : x + 5], pair["low"])
        places.add((y, x))
    assert len(places) > 4


def test_noisy_share_is_decoded_from_other_latents(pictures, tmp_path):
    settings = {"crop": SIZE // FACTOR, "latent_noise": 0.5}
    clean, always = (dataset(pictures, tmp_path, noisy_fraction=share, **settings) for share in (0.0, 1.0))
    sometimes = dataset(pictures, tmp_path, noisy_fraction=0.5, **settings)
    noise = [float((always.item(i, seeded())["low"] - clean.item(i, seeded())["low"]).abs().mean()) for i in range(N)]
    assert min(noise) >= 0 and max(noise) > 0.01
    kinds = [torch.equal(sometimes.item(0, seeded(s))["low"], clean.item(0, seeded())["low"]) for s in range(20)]
    assert any(kinds) and not all(kinds)


def test_same_generator_same_item(pictures, tmp_path):
    made = dataset(pictures, tmp_path)
    for key in ("low", "high"):
        assert torch.equal(made.item(3, seeded(5))[key], made.item(3, seeded(5))[key])


def test_subset_is_spread_evenly_with_its_weights(pictures, tmp_path):
    made = dataset(pictures, tmp_path, whole=True, pictures=3)
    assert len(made) == 3
    assert made.weights.tolist() == [1.0, 3.0, 5.0]
    assert torch.equal(made.item(1, seeded())["high"], pictures.image(2))
    assert len(dataset(pictures, tmp_path, pictures=99)) == N


def test_cache_belongs_to_the_autoencoder(pictures, tmp_path):
    first = dataset(pictures, tmp_path, model=autoencoder(0))
    assert len(list(tmp_path.iterdir())) == 1
    again = dataset(pictures, tmp_path, model=autoencoder(0))
    assert len(list(tmp_path.iterdir())) == 1
    other = dataset(pictures, tmp_path, model=autoencoder(1))
    assert len(list(tmp_path.iterdir())) == 2
    lows = [made.item(0, seeded())["low"] for made in (first, again, other)]
    assert torch.equal(lows[0], lows[1]) and not torch.equal(lows[0], lows[2])


def test_impossible_sizes_are_refused(pictures, tmp_path):
    with pytest.raises(ValueError, match=r"data\.crop=9"):
        dataset(pictures, tmp_path, crop=9)
    with pytest.raises(ValueError, match=r"data\.size=32 is not a multiple of upscaler\.factor=64"):
        dataset(pictures, tmp_path, factor=64)
    for setting in ({"crop": 0}, {"pictures": -1}, {"latent_noise": -0.1}, {"noisy_fraction": 1.5}):
        with pytest.raises(ValueError, match=next(iter(setting))):
            UpscalingDataConfig(**setting)


def test_untrained_upscaler_measures_as_bicubic(pictures, tmp_path):
    made = dataset(pictures, tmp_path, whole=True)
    quality = measure_upscaler(Upscaler(UpscalerConfig(8, 1)), made, limit=4)
    assert quality.pictures == 4
    assert quality.gain == pytest.approx(0.0, abs=1e-5)
    low, high = made.item(0, seeded())["low"][None], made.item(0, seeded())["high"]
    expected = F.interpolate(low, scale_factor=4, mode="bicubic")[0].clamp(-1, 1)
    single = measure_upscaler(Upscaler(UpscalerConfig(8, 1)), made, limit=1)
    assert single.psnr == pytest.approx(10 * np.log10(4 / float((expected - high).square().mean())), abs=1e-3)
    with pytest.raises(ValueError, match="limit=0"):
        measure_upscaler(Upscaler(UpscalerConfig(8, 1)), made, limit=0)


def test_a_run_trains_and_exports_an_upscaler(tmp_path):
    write_shard(tmp_path / "data" / "train" / "000000.tar", samples())
    write_shard(tmp_path / "data" / "held_out" / "000000.tar", samples())
    save_autoencoder(autoencoder(), tmp_path / "stage1" / "vae")
    shipped = CONFIGS / "upscaler.yaml"
    overrides = [f"output={tmp_path / 'run'}", f"data.folder={tmp_path / 'data'}", f"autoencoder={tmp_path / 'stage1'}"]
    overrides += ["data.size=32", "data.crop=4", "upscaler.width=8", "upscaler.blocks=1", "loss.perceptual_weight=0"]
    overrides += [
        "loop.samples=8",
        "loop.batch_size=4",
        "loop.log_every=4",
        "loop.previews=2",
        "loop.trackers=[]",
    ]
    trainer = train(load_run(shipped, overrides))
    assert trainer.samples_seen == 8
    exported = load_upscaler(tmp_path / "run" / "export" / "upscaler")
    assert exported.config == UpscalerConfig(width=8, blocks=1)
    logged = json.loads((tmp_path / "run" / "stats.jsonl").read_text().splitlines()[0])
    assert logged["upscaler/psnr"] == pytest.approx(logged["upscaler/bicubic_psnr"], abs=1.0)
    assert list((tmp_path / "run" / "previews").glob("upscaled-*.png"))
