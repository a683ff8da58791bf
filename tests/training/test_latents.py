"""From shards to losses: cached latents are the live ones, pictures and their sizes come along, and configs say so."""

import json
from pathlib import Path

import pytest
import torch
from checkout import CONFIGS
from PIL import Image
from torch.utils.data import default_collate
from typer.testing import CliRunner

from autoencoder.config import AutoencoderConfig
from autoencoder.kl import KLAutoencoder
from ldm.cli import app
from ldm.data.cache.latents import LatentDataset
from ldm.data.pictures.dataset import PictureDataset
from ldm.data.recipes.digits import build_digits
from ldm.io.folder.autoencoder import load_autoencoder, save_autoencoder
from ldm.io.folder.load import load_unet
from ldm.networks.unet import UNet
from ldm.pipeline.pipeline import LatentDiffusion
from ldm.tasks.picture import image_of
from ldm.training.batches.sample_order import generator_for
from ldm.training.diffusion.config import DiffusionConfig
from ldm.training.objectives.latent_diffusion import FrozenParts, LatentDiffusionObjective
from ldm.training.stages.config_file import load_run
from ldm.training.stages.train import train

CONFIG = CONFIGS / "digits" / "ldm_labels.yaml"
TINY = [
    "data.size=16",
    "unet.widths=[8,8]",
    "unet.num_heads=[1,1]",
    "unet.norm_groups=4",
    "loop.batch_size=4",
    "loop.samples=8",
    "loop.previews=2",
    "loop.log_every=4",
    "diffusion.steps=2",
]


@pytest.fixture(scope="module")
def road(tmp_path_factory) -> Path:
    """Digits of 32 px as data, and an autoencoder that saw nothing yet."""
    root = tmp_path_factory.mktemp("road")
    build_digits(root / "data", size=32)
    torch.manual_seed(0)
    autoencoder = KLAutoencoder(AutoencoderConfig(widths=(8, 8), blocks_per_level=1, norm_groups=4))
    save_autoencoder(autoencoder, root / "autoencoder" / "vae", 0.5)
    return root


def _run(road: Path, output: Path, *more: str):
    where = [f"data.folder={road / 'data'}", f"autoencoder={road / 'autoencoder'}", f"output={output}"]
    return load_run(CONFIG, [*where, *TINY, *more])


def test_cached_and_live_latents_give_the_same_losses_to_1e_5(road):
    run = _run(road, road / "unused", "diffusion.concat=inpainting", "unet.in_channels=9")
    autoencoder, latent_format = load_autoencoder(road / "autoencoder")
    torch.manual_seed(0)
    objective = LatentDiffusionObjective(UNet(run.unet), FrozenParts(autoencoder, latent_format), run.diffusion)
    pictures = PictureDataset(road / "data", 16)
    cached = LatentDataset(pictures, autoencoder, road / "data" / ".cache", also_pictures=True)
    for start in range(0, 48, 12):
        losses = []
        for dataset in (cached, pictures):
            ids = range(start, start + 12)
            items = [{**dataset.item(i, generator_for(0, i)), "index": i} for i in ids]
            generators = [generator_for(0, i, 1) for i in ids]
            with torch.no_grad():
                losses.append(objective.loss("unet", default_collate(items), generators, 0)["loss"])
        torch.testing.assert_close(*losses, rtol=0, atol=1e-5)


def _text_run(road: Path, tiny_folder: Path, output: Path, *more: str):
    where = [f"data.folder={road / 'data'}", f"autoencoder={road / 'autoencoder'}", f"output={output}"]
    shape = ["unet.transformer_layers=[0,1]", "unet.num_heads=[1,2]", "unet.context_dim=16", "unet.num_classes=null"]
    words = [f"text={tiny_folder}", "upscaler=''", "loop.precision=fp32", f"data.cache={output}-cache", *shape]
    return load_run(CONFIG, [*where, *TINY, *words, *more])


@pytest.mark.slow
def test_a_config_says_whether_captions_are_cached_and_the_losses_are_the_same_to_1e_5(road, tiny_folder, tmp_path):
    losses, caches = {}, {}
    for word in ("true", "false", "auto"):
        train(_text_run(road, tiny_folder, tmp_path / word, f"cache_text={word}"))
        lines = (tmp_path / word / "stats.jsonl").read_text().splitlines()
        losses[word] = [json.loads(line)["unet/loss"] for line in lines]
        caches[word] = list((tmp_path / f"{word}-cache").glob("text-*/*.safetensors"))
    assert losses["true"] == pytest.approx(losses["false"], abs=1e-5)
    assert caches["true"] and not caches["false"]
    assert not caches["auto"], "8 samples are fewer than there are captions"
    captions = len(PictureDataset(road / "data", 16).all_captions())
    train(_text_run(road, tiny_folder, tmp_path / "long", f"loop.samples={captions // 4 * 4 + 4}"))
    assert list((tmp_path / "long-cache").glob("text-*/*.safetensors"))


def test_captions_that_would_take_too_much_are_refused_before_they_are_encoded(road, tiny_folder, tmp_path):
    with pytest.raises(
        ValueError, match=r"cache_text=true: the states of \d+ captions take .* than cache_text_gb=1e-09"
    ):
        train(_text_run(road, tiny_folder, tmp_path / "run", "cache_text=true", "cache_text_gb=1e-9"))
    assert not list(tmp_path.glob("*cache/text-*"))


def test_items_of_cached_latents_say_what_the_pictures_say(road):
    pictures = PictureDataset(road / "data", 16)
    autoencoder, _ = load_autoencoder(road / "autoencoder")
    with_pictures = LatentDataset(pictures, autoencoder, road / "data" / ".cache", also_pictures=True)
    item, wanted = with_pictures.item(7, generator_for(0, 7)), pictures.item(7, generator_for(0, 7))
    assert item["caption"] == wanted["caption"] and item["label"] == wanted["label"]
    assert torch.equal(item["image"], wanted["image"]) and torch.equal(item["sizes"], wanted["sizes"])
    assert "image" not in LatentDataset(pictures, autoencoder, road / "data" / ".cache").item(7, generator_for(0, 7))


def test_sizes_are_of_the_original_of_the_crop_and_of_the_item(road):
    whole = PictureDataset(road / "data", 8)
    assert whole.item(0, generator_for(0, 0))["sizes"].tolist() == [32, 32, 0, 0, 8, 8]
    cropped = PictureDataset(road / "data", 8, crop_fraction=1.0)
    twice = PictureDataset(road / "data", 16)
    for i in range(5):
        item = cropped.item(i, generator_for(0, i))
        height, width, top, left, *target = item["sizes"].int().tolist()
        assert (height, width, target) == (32, 32, [8, 8])
        torch.testing.assert_close(item["image"], twice.image(i)[:, top : top + 8, left : left + 8])


@pytest.mark.parametrize(
    "words",
    [
        ["cache_latents=false", "data.crop_fraction=0.5", "diffusion.process=flow", "diffusion.prediction_type=flow"],
        ["diffusion.process=edm", "diffusion.time_sampling=log_normal", "diffusion.time_mean=-0.5"],
        ["diffusion.concat=inpainting", "unet.in_channels=9", "diffusion.process=edm", "diffusion.weighting=edm"],
        ["diffusion.concat=low_resolution", "unet.in_channels=7", "unet.num_classes=350", "cache_latents=false"],
        ["diffusion.concat=edge", "unet.in_channels=5", "diffusion.prediction_type=epsilon"]
        + ["diffusion.zero_terminal_snr=false", "diffusion.time_sampling=logit_normal", "diffusion.weighting=p2"],
    ],
    ids=["live crops, flow", "edm", "inpainting, edm", "low resolution, live", "edge, epsilon"],
)
def test_a_config_says_it_all(words, road, tmp_path):
    trainer = train(_run(road, tmp_path, *words))
    assert trainer.samples_seen == 8
    assert (tmp_path / "export" / "unet" / "config.json").is_file()
    if "concat" not in " ".join(words):
        (picture,) = LatentDiffusion.from_pretrained(tmp_path / "export")("3", seed=0).images
        assert picture.size == (16, 16)
    losses = [json.loads(line)["unet/loss"] for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert losses and all(0 < loss < 100 for loss in losses)


def test_a_trained_x4_model_opens_in_diffusers_and_in_the_command(road, tiny_folder, tmp_path):
    """The recipe configs/x4.yaml at tiny widths: it knows the small picture, and how noisy that is."""
    from diffusers import StableDiffusionUpscalePipeline

    shape = ["unet.widths=[8,8]", "unet.transformer_layers=[0,1]", "unet.num_heads=[1,2]", "unet.norm_groups=4"]
    shape += ["unet.context_dim=16", "unet.in_channels=7", "unet.out_channels=4", "unet.num_classes=40"]
    loop = ["loop.batch_size=4", "loop.samples=8", "loop.previews=2", "loop.log_every=4", "diffusion.steps=2"]
    where = [f"data.folder={road / 'data'}", f"autoencoder={road / 'autoencoder'}", f"text={tiny_folder}"]
    run = load_run(
        CONFIGS / "x4.yaml",
        [*where, f"output={tmp_path}", "data.size=16", *shape, *loop, "diffusion.noise_levels=40"],
    )
    train(run)
    pipeline = StableDiffusionUpscalePipeline.from_pretrained(tmp_path / "export")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.config.max_noise_level == 39
    small = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    large = pipeline("7", small * 2 - 1, num_inference_steps=2, noise_level=9, output_type="np").images
    image_of((small[0].permute(1, 2, 0) * 255).byte().numpy()).save(tmp_path / "small.png")
    options = ["--model", str(tmp_path / "export"), "--noise-level", "9", "--steps", "2", "--consistent", "--json"]
    done = CliRunner().invoke(app, ["upscale", str(tmp_path / "small.png"), "-o", str(tmp_path / "out.png"), *options])
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "out.png") as made:
        assert (made.height, made.width) == large.shape[1:3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["diffusion.prediction_type=epsilon"], "'epsilon' contradicts zero_terminal_snr=True"),
        (["diffusion.weighting=minsnr"], "diffusion.weighting 'minsnr'; did you mean 'min_snr'"),
        (["data.crop_fraction=0.5"], "use cache_latents=false"),
    ],
)
def test_a_config_that_cannot_be_is_refused_when_read(words, message, road, tmp_path):
    with pytest.raises(ValueError, match=message):
        _run(road, tmp_path, *words)


def test_a_training_that_could_not_be_exported_does_not_begin(road, tmp_path):
    with pytest.raises(ValueError, match=r"process='flow' with diffusion.prediction_type='v_prediction'"):
        train(_run(road, tmp_path / "run", "diffusion.process=flow"))
    assert not (tmp_path / "run").exists()


def test_times_do_not_depend_on_the_batch_being_cut(road):
    """The config's batch size and seed reach the strata."""
    autoencoder, latent_format = load_autoencoder(road / "autoencoder")
    run = _run(road, road / "unused")
    objective = LatentDiffusionObjective(
        UNet(run.unet), FrozenParts(autoencoder, latent_format), DiffusionConfig(), batch_size=16, seed=5
    )
    draws = torch.rand(16, dtype=torch.float64, generator=generator_for(0, 0))
    whole = objective._times(torch.arange(32, 48), draws)
    halves = [objective._times(torch.arange(32 + i, 40 + i), draws[i : i + 8]) for i in (0, 8)]
    assert torch.equal(whole, torch.cat(halves))
    assert sorted((whole / 1000 * 16).long().tolist()) == list(range(16))


def test_a_training_goes_on_from_the_network_of_a_finished_model(road, tmp_path):
    train(_run(road, tmp_path / "first"))
    finished = tmp_path / "first" / "export"
    before = load_unet(finished).state_dict()
    kept = ["loop.ema_half_life=0", "loop.warmup=0", "loop.weight_decay=0", f"initial={finished}"]
    train(_run(road, tmp_path / "still", *kept, "loop.learning_rate=0"))
    train(_run(road, tmp_path / "moved", *kept, "loop.learning_rate=1e-3"))
    still, moved = (load_unet(tmp_path / name / "export").state_dict() for name in ("still", "moved"))
    assert all(torch.equal(still[name], weight) for name, weight in before.items())
    assert all(not torch.equal(moved[name], weight) for name, weight in before.items())
