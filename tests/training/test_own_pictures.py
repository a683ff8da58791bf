"""From a folder of somebody's photographs, with text files beside them, to a model that draws: all three stages."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from checkout import CONFIGS
from PIL import Image
from safetensors import safe_open
from typer.testing import CliRunner

from ldm.cli import app
from ldm.pipeline.pipeline import LatentDiffusion
from ldm.training.stages.config_file import load_run
from ldm.training.stages.train import train

DIGITS = CONFIGS / "digits"
_LOOP = ["loop.batch_size=4", "loop.samples=8", "loop.previews=2", "loop.log_every=4", "data.size=16"]
_STAGES = {
    "autoencoder": ["autoencoder.widths=[8,8]", "autoencoder.norm_groups=4"],
    "clip": ["clip.vocab_size=530", "clip.text_layers=1", "clip.image_layers=1", "clip.image_size=16"],
    "ldm": ["unet.widths=[8,8]", "unet.num_heads=[1,1]", "unet.norm_groups=4", "diffusion.steps=2"],
}


def photographs(folder: Path, words: bool = True) -> Path:
    """Twelve pictures of every shape, two of them broken."""
    random = np.random.default_rng(0)
    for i in range(12):
        pixels = random.integers(0, 256, (20 + 3 * i, 30, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG" if i % 2 else "PNG")
        path = folder / f"{i // 6}" / f"{i:02}.{'jpg' if i % 2 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.getvalue()[: 300 if i in (3, 8) else None])
        if words:
            path.with_suffix(".txt").write_text(f"picture {i}, noise\nnumber {i}\n")
    return folder


def _train(stage: str, root: Path, data: Path, *more: str) -> None:
    output = root / stage
    where = [f"data.folder={data}", f"output={output}"]
    if stage == "ldm":
        where += [f"autoencoder={root / 'autoencoder' / 'export'}", f"text={root / 'clip' / 'export'}"]
    trainer = train(load_run(DIGITS / f"{stage}.yaml", [*where, *_LOOP, *_STAGES[stage], *more]))
    assert trainer.samples_seen == 8


@pytest.mark.slow
def test_a_folder_of_photographs_becomes_a_model(tmp_path: Path) -> None:
    data = photographs(tmp_path / "photographs")
    for stage in ("autoencoder", "clip"):
        _train(stage, tmp_path, data)
    live = ["cache_latents=false", "data.cache_pictures=false"]
    live += ["data.augment.flip=0.5", "data.augment.shuffle_tags=true", "export_dtype=fp16"]
    for number, more in enumerate(([], live)):
        output = tmp_path / f"ldm{number}"
        _train("ldm", tmp_path, data, *more, f"output={output}")
        losses = [json.loads(line)["unet/loss"] for line in (output / "stats.jsonl").read_text().splitlines()]
        assert losses and all(np.isfinite(losses))
        with safe_open(output / "export" / "unet" / "diffusion_pytorch_model.safetensors", framework="pt") as file:
            assert file.get_slice("conv_in.weight").get_dtype() == ("F16" if more else "F32")
    listed = [json.loads(line) for line in (tmp_path / "ldm0" / "bad_pictures.jsonl").read_text().splitlines()]
    assert sorted(Path(line["picture"]).name for line in listed) == ["03.jpg", "08.png"]
    (picture,) = LatentDiffusion.from_pretrained(tmp_path / "ldm0" / "export")("number 5", seed=0).images
    assert picture.size == (16, 16)


def test_pictures_without_words_train_an_autoencoder_and_nothing_on_words(tmp_path: Path) -> None:
    data = photographs(tmp_path / "photographs", words=False)
    _train("autoencoder", tmp_path, data, "data.held_out=0", "data.augment.crop_scale=0.5", "data.augment.colour=0.1")
    with pytest.raises(ValueError, match=r"none of the \d+ pictures of .*photographs has a caption"):
        _train("clip", tmp_path, data)
    export = str(tmp_path / "autoencoder" / "export")
    measured = CliRunner().invoke(app, ["autoencoder", "stats", export, "--data", str(data), "--size", "16"])
    assert measured.exit_code == 0 and "scale " in measured.stdout


def test_several_sources_are_one_training(tmp_path: Path) -> None:
    for name in ("a", "b"):
        photographs(tmp_path / name)
    sources = f"[{{path: {tmp_path / 'a'}, weight: 3}}, {{path: {tmp_path / 'b'}, weight: 1}}]"
    more = ["data.folder=''", f"data.sources={sources}", f"data.cache={tmp_path / 'cache'}"]
    _train("autoencoder", tmp_path, tmp_path / "a", *more)
    assert any((tmp_path / "cache").glob("pictures-16-*")) and not (tmp_path / "a" / ".cache").exists()
    config = (tmp_path / "autoencoder" / "config.yaml").read_text()
    assert "weight: 3.0" in config and "held_out: 0.02" in config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.sources=[{path: x, wieght: 2}]", "data.folder=''"], r"data.sources\[0\].wieght; did you mean 'weight'"),
        (["data.sources=[{path: x}]"], "data.folder=.* and data.sources are both given"),
        (["data.held_out=1.5"], "data.held_out=1.5 is a share of the pictures"),
        (["data.cache_pictures=maybe"], "unknown data.cache_pictures 'maybe'"),
        (["data.augment.flop=1"], "unknown setting data.augment.flop; did you mean 'flip'"),
    ],
)
def test_settings_that_cannot_be_are_refused_when_read(settings: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_run(DIGITS / "clip.yaml", [f"output={tmp_path}", *settings])


def test_switches_of_yaml_are_understood(tmp_path: Path) -> None:
    run = load_run(DIGITS / "clip.yaml", [f"output={tmp_path}", "data.cache_pictures=true"])
    assert run.data.cache_pictures == "true"
