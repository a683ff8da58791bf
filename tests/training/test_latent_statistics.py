"""An autoencoder's latents are measured before a denoiser learns them, and a settled scale is never changed."""

import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from checkout import CONFIGS
from typer.testing import CliRunner

from autoencoder.build import build_autoencoder
from autoencoder.config import AutoencoderConfig
from autoencoder.statistics import LatentStatistics
from ldm.cli import app
from ldm.data.pictures.dataset import PictureDataset
from ldm.data.recipes.digits import build_digits
from ldm.io.folder.autoencoder import load_autoencoder, save_autoencoder
from ldm.pipeline.pipeline import LatentDiffusion
from ldm.training.stages.config_file import load_run
from ldm.training.stages.train import train

DIGITS = CONFIGS / "digits"
_SHAPE = {"widths": (8, 16), "norm_groups": 4, "blocks_per_level": 1, "mid_attention": False}
_TINY = ["data.size=16", "loop.samples=32", "loop.batch_size=8", "loop.precision=fp32", "loop.previews=2"]
_SHAPED = ["autoencoder.widths=[8,8]", "autoencoder.norm_groups=4"]
_VQ = [*_SHAPED, "autoencoder.codebook_size=64", "autoencoder.latent_channels=3", "loss.restart_codes=true"]
_UNET = ["unet.widths=[8,8]", "unet.num_heads=[2,2]", "unet.norm_groups=4", "unet.transformer_layers=[0,0]"]


@pytest.fixture(scope="module", autouse=True)
def fp32():
    """accelerate keeps one precision per process: these tests must not leave theirs to the next file."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    build_digits(folder, size=16)
    return folder


def run_stats(*arguments: object):
    return CliRunner().invoke(app, ["autoencoder", "stats", *map(str, arguments)])


def save(folder: Path, scaling_factor: float | None = None, **shape) -> None:
    torch.manual_seed(0)
    config = AutoencoderConfig(**(_SHAPE | shape))
    save_autoencoder(build_autoencoder(config), folder, scaling_factor)


def autoencoder_run(digits: Path, output: Path, *settings: str):
    return load_run(DIGITS / "autoencoder.yaml", [f"data.folder={digits}", f"output={output}", *_TINY, *settings])


def denoiser_run(digits: Path, output: Path, autoencoder: Path, *settings: str):
    where = [f"data.folder={digits}", f"output={output}", f"autoencoder={autoencoder}"]
    return load_run(DIGITS / "ldm_labels.yaml", [*where, *_TINY, *_UNET, *settings])


def latents(folder: Path, digits: Path) -> torch.Tensor:
    autoencoder, _ = load_autoencoder(folder)
    pictures = PictureDataset(digits, 16)
    with torch.no_grad():
        return autoencoder.encode(torch.stack([pictures.image(i) for i in range(len(pictures))])).mean


def test_scale_is_the_inverse_deviation_of_all_latents_together() -> None:
    z = torch.randn(4000, 3, dtype=torch.float64) * torch.tensor([0.5, 2.0, 7.0]) + torch.tensor([3.0, 0.0, -1.0])
    statistics = LatentStatistics(tuple(z.mean(0).tolist()), tuple(z.std(0, correction=0).tolist()))
    assert statistics.scale == pytest.approx(1 / float(z.flatten().std(correction=0)), rel=1e-9)
    with pytest.raises(ValueError, match="no channel that varies"):
        _ = LatentStatistics((1.0, 1.0), (0.0, 0.0)).scale


@pytest.mark.parametrize("place", [".", "vae"])
def test_stats_of_a_codebook_are_those_of_its_latents_over_the_whole_set(place, digits, tmp_path) -> None:
    save(tmp_path / place, codebook_size=32, latent_channels=3)
    result = run_stats(tmp_path, "--data", digits, "--size", 16, "--pictures", 0)
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / place / "latent_statistics.json").read_text())
    z = latents(tmp_path, digits).double()
    torch.testing.assert_close(torch.tensor(written["mean"]).double(), z.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        torch.tensor(written["std"]).double(), z.std((0, 2, 3), correction=0), atol=1e-5, rtol=1e-4
    )
    assert (written["pictures"], written["size"]) == (len(z), 16)
    _, latent_format = load_autoencoder(tmp_path)
    assert latent_format.scale == written["scale"]
    assert float(latent_format.to_model(z).std(correction=0)) == pytest.approx(1, rel=1e-4)


def test_a_stated_scale_stays(digits, tmp_path) -> None:
    save(tmp_path, scaling_factor=0.3)
    before = (tmp_path / "config.json").read_bytes()
    result = run_stats(tmp_path, "--data", digits, "--size", 16, "--pictures", 50)
    assert result.exit_code == 0 and "scaling_factor 0.30000 is in use already" in result.stdout
    assert (tmp_path / "config.json").read_bytes() == before
    assert json.loads((tmp_path / "latent_statistics.json").read_text())["pictures"] == 50


def test_scale_that_a_denoiser_has_learned_stays_where_nobody_wrote_it_down(digits, tmp_path) -> None:
    """Folders of Stable Diffusion 1 are older than the field: diffusers' default is what they were trained with."""
    save(tmp_path / "vae")
    (tmp_path / "unet").mkdir()
    result = run_stats(tmp_path, "--data", digits, "--size", 16, "--pictures", 8)
    assert result.exit_code == 0 and "scaling_factor 0.18215 is in use already" in result.stdout
    assert load_autoencoder(tmp_path)[1].scale == 0.18215
    assert "scaling_factor" not in json.loads((tmp_path / "vae" / "config.json").read_text())


@pytest.mark.slow
def test_training_refuses_an_autoencoder_that_nobody_has_measured(digits, tmp_path) -> None:
    save(tmp_path / "bare")
    command = f"run `ldm autoencoder stats {tmp_path / 'bare'} --data {digits} --size 16`"
    with pytest.raises(ValueError, match="has no latent statistics") as caught:
        train(denoiser_run(digits, tmp_path / "ldm", tmp_path / "bare"))
    assert command in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "ldm").exists()
    words = command.removeprefix("run `ldm ").removesuffix("`").split()
    assert CliRunner().invoke(app, words).exit_code == 0
    assert train(denoiser_run(digits, tmp_path / "ldm", tmp_path / "bare")).samples_seen == 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}", "--data", "{folder}/nothing"], "nothing"),
        (["{folder}/nothing", "--data", "{digits}"], "config.json is missing"),
        (["{folder}", "--data", "{digits}", "--size", "17"], "height=17 is not a multiple of 2; use 16 or 18"),
        (["{folder}", "--data", "{digits}", "--pictures", "-1"], "--pictures -1 is negative"),
    ],
)
def test_wrong_requests_are_one_line(arguments, message, digits, tmp_path) -> None:
    save(tmp_path)
    result = run_stats(*(argument.format(folder=tmp_path, digits=digits) for argument in arguments))
    assert result.exit_code in (1, 2) and message in result.stderr
    assert not (tmp_path / "latent_statistics.json").exists()


@pytest.fixture(scope="module")
def codebook(digits, tmp_path_factory) -> Path:
    """A VQ autoencoder from the command that users give."""
    output = tmp_path_factory.mktemp("codebook")
    train(autoencoder_run(digits, output, *_VQ))
    return output / "export"


def test_trained_codebook_is_measured_and_a_denoiser_learns_its_latents(codebook, digits, tmp_path) -> None:
    _, latent_format = load_autoencoder(codebook)
    z = latent_format.to_model(latents(codebook, digits))
    assert float(z.std()) == pytest.approx(1, rel=0.05)
    train(denoiser_run(digits, tmp_path, codebook, "unet.in_channels=3", "unet.out_channels=3"))
    index = json.loads((tmp_path / "export" / "model_index.json").read_text())
    assert index["vae"] == ["diffusers", "VQModel"]
    pipeline = LatentDiffusion.from_pretrained(tmp_path / "export")
    assert pipeline("3", seed=0, num_inference_steps=2, output_type="pt").images.shape == (1, 3, 16, 16)


@pytest.mark.parametrize("quant_conv", ["true", "false"])
def test_trained_kl_autoencoder_has_latents_of_unit_variance(quant_conv, digits, tmp_path) -> None:
    train(autoencoder_run(digits, tmp_path, *_SHAPED, f"autoencoder.quant_conv={quant_conv}", "loss.kl_weight=0"))
    written = json.loads((tmp_path / "export" / "vae" / "latent_statistics.json").read_text())
    _, latent_format = load_autoencoder(tmp_path / "export")
    assert (latent_format.scale == 1) == (quant_conv == "true")
    assert written["scale"] == latent_format.scale


def test_decoder_only_training_keeps_latents_and_scale_of_the_initial_model(digits, codebook, tmp_path) -> None:
    train(autoencoder_run(digits, tmp_path, f"initial={codebook}", "decoder_only=true"))
    (old, old_format), (new, new_format) = load_autoencoder(codebook), load_autoencoder(tmp_path / "export")
    assert torch.equal(latents(codebook, digits), latents(tmp_path / "export", digits))
    assert old_format == new_format and old.config == new.config
    assert not torch.equal(old.decoder.conv_out.weight, new.decoder.conv_out.weight)


def test_decoder_only_training_writes_down_the_scale_that_the_denoiser_beside_has_learned(digits, tmp_path) -> None:
    save(tmp_path / "model" / "vae")
    (tmp_path / "model" / "unet").mkdir()
    train(autoencoder_run(digits, tmp_path / "run", f"initial={tmp_path / 'model'}", "decoder_only=true"))
    assert json.loads((tmp_path / "run" / "export" / "vae" / "config.json").read_text())["scaling_factor"] == 0.18215


def test_decoder_only_needs_an_encoder_to_keep(digits, tmp_path) -> None:
    with pytest.raises(ValueError, match="decoder_only=True has no encoder to keep; name"):
        autoencoder_run(digits, tmp_path, "decoder_only=true")
