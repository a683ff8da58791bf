"""Autoencoders on their own in place of a model's, and TAESD, against diffusers."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import load_file, save_file
from single_files import file_vae, prefixed
from torch import Tensor

from autoencoder.tiny import TinyAutoencoder
from ldm import LatentDiffusion
from ldm.io.disk.files import ModelFileError
from ldm.io.vae import read_autoencoder

OPTIONS = {"num_inference_steps": 2, "seed": 0, "output_type": "pt"}


@pytest.fixture
def other_vae(tiny_folder: Path) -> AutoencoderKL:
    """One for the same latents as the tiny model's, with the groups of published ones, which no weight tells."""
    torch.manual_seed(6)
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        scaling_factor=AutoencoderKL.load_config(tiny_folder / "vae")["scaling_factor"],
    )
    return vae.eval()


@pytest.fixture
def taesd() -> AutoencoderTiny:
    torch.manual_seed(4)
    return AutoencoderTiny().eval()


def author_names(taesd: AutoencoderTiny, half: str) -> dict[str, Tensor]:
    """The state of one half as madebyollin's files have it: the decoder counts its clamp."""
    names = {}
    for name, value in taesd.state_dict().items():
        if name.startswith(f"{half}.layers."):
            number, rest = name.removeprefix(f"{half}.layers.").split(".", 1)
            names[f"{int(number) + (half == 'decoder')}.{rest}"] = value
    return names


def store(vae: AutoencoderKL, layout: str, path: Path) -> Path:
    state, levels = dict(vae.state_dict()), len(vae.config.block_out_channels)
    if layout == "folder":
        vae.save_pretrained(path / "it")
        return path / "it"
    if layout == "model folder":
        vae.save_pretrained(path / "it" / "vae")
        return path / "it"
    compvis = file_vae(state, levels)
    files = {
        "diffusers": state,
        "compvis": compvis | {"loss.logvar": torch.ones(1), "model_ema.decay": torch.ones(1)},
        "checkpoint": prefixed("first_stage_model.", compvis) | {"model.diffusion_model.x": torch.ones(1)},
    }
    save_file({name: value.contiguous() for name, value in files[layout].items()}, path / "it.safetensors")
    return path / "it.safetensors"


@pytest.mark.parametrize("layout", ["diffusers", "compvis", "checkpoint", "folder", "model folder"])
def test_every_layout_draws_as_in_diffusers(
    layout: str, other_vae: AutoencoderKL, tiny_folder: Path, tmp_path: Path
) -> None:
    path = store(other_vae, layout, tmp_path)
    plain, model = LatentDiffusion.from_pretrained(tiny_folder), LatentDiffusion.from_pretrained(tiny_folder, vae=path)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = model.decode(latents)
    with torch.no_grad():
        expected = other_vae.decode(latents / model.parts.latent_format.scale).sample
    torch.testing.assert_close(found, (expected / 2 + 0.5).clamp(0, 1), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, plain.decode(latents), atol=1e-2)
    result = model("apple", **OPTIONS)
    assert result.recipes[0].vae == str(path) and plain("apple", **OPTIONS).recipes[0].vae is None


def test_a_folder_that_says_a_scale_is_believed(other_vae: AutoencoderKL, tiny_folder: Path, tmp_path: Path) -> None:
    path = store(other_vae, "folder", tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"scaling_factor": 0.5}))
    assert LatentDiffusion.from_pretrained(tiny_folder, vae=path).parts.latent_format.scale == 0.5


@pytest.mark.parametrize("layout", ["author", "diffusers", "comfyui", "folder"])
def test_taesd_is_that_of_diffusers(layout: str, taesd: AutoencoderTiny, tmp_path: Path) -> None:
    halves = {half: author_names(taesd, half) for half in ("encoder", "decoder")}
    path = tmp_path / "taesd_decoder.safetensors"
    if layout == "author":
        for half, state in halves.items():
            save_file(state, tmp_path / f"taesd_{half}.safetensors")
    elif layout == "diffusers":
        save_file(dict(taesd.state_dict()), path)
    elif layout == "comfyui":
        save_file(
            {f"taesd_{half}.{name}": value for half, state in halves.items() for name, value in state.items()}, path
        )
    else:
        path = tmp_path / "taesd"
        taesd.save_pretrained(path)
    network = read_autoencoder(path).load(torch.float32)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 3
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(network.decode(latents), taesd.decode(latents).sample, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network.encode(picture).mean, taesd.encode(picture).latents, rtol=1e-4, atol=1e-5)


def fits(folder: Path, taesd: AutoencoderTiny, path: Path) -> Path:
    """A TAESD decoder's file, and a model folder that it fits: with 8 pixels a cell."""
    save_file(author_names(taesd, "decoder"), path / "taesd_decoder.safetensors")
    shutil.copytree(folder, path / "model")
    config = path / "model" / "vae" / "config.json"
    fields = json.loads(config.read_text())
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=fields["scaling_factor"],
    )
    vae.save_pretrained(path / "model" / "vae")
    return path / "model"


def test_taesd_decodes_pictures_and_previews(taesd: AutoencoderTiny, tiny_folder: Path, tmp_path: Path) -> None:
    folder, file = fits(tiny_folder, taesd, tmp_path), tmp_path / "taesd_decoder.safetensors"
    model = LatentDiffusion.from_pretrained(folder, vae=file)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = (taesd.decode(latents).sample / 2 + 0.5).clamp(0, 1)  # a TAESD knows a denoiser's own scale
    torch.testing.assert_close(model.decode(latents), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"a decoder alone; to encode, put taesd_encoder.safetensors"):
        model.encode(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="open it without vae= to save it"):
        model.save_pretrained(tmp_path / "new")
    whole = LatentDiffusion.from_pretrained(folder)
    whole.load_preview(file)
    from ldm import Request

    (*_, step) = whole.steps(Request(prompt="apple", num_inference_steps=1, seed=0))
    with torch.no_grad():
        expected = (taesd.decode(step.prediction.x0).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(step.preview, expected, rtol=1e-4, atol=1e-5)
    assert isinstance(whole.preview_autoencoder, TinyAutoencoder)
    with pytest.raises(ValueError, match="is a large autoencoder, too slow for previews"):
        whole.load_preview(folder / "vae")


def test_autoencoders_for_other_latents_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    other = AutoencoderKL(latent_channels=8)
    path = store(other, "folder", tmp_path)
    with pytest.raises(ModelFileError, match=r"its latents have 8 channels and 1 pixels a cell, this model's 4 and"):
        LatentDiffusion.from_pretrained(tiny_folder, vae=path)


def test_what_is_no_autoencoder_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    save_file({"a.b": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelFileError, match=r"x.safetensors holds no autoencoder, but a.b"):
        LatentDiffusion.from_pretrained(tiny_folder, vae=tmp_path / "x.safetensors")
    save_file({"0.weight": torch.ones(4, 3, 3, 3)}, tmp_path / "taesd_encoder.safetensors")
    with pytest.raises(ModelFileError, match="without its decoder; name taesd_decoder"):
        read_autoencoder(tmp_path / "taesd_encoder.safetensors")
    with pytest.raises(FileNotFoundError, match=r"'nowhere.safetensors' is neither"):
        LatentDiffusion.from_pretrained(tiny_folder, vae="nowhere.safetensors")


def test_models_without_an_autoencoder_open_with_one(
    other_vae: AutoencoderKL, tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "vae")
    with pytest.raises(ModelFileError, match=r"model is a model without an autoencoder .*; name one with --vae FILE"):
        LatentDiffusion.from_pretrained(tmp_path / "model")
    path = store(other_vae, "compvis", tmp_path)
    model = LatentDiffusion.from_pretrained(tmp_path / "model", vae=path)
    assert model.parts.latent_format.scale == 0.18215  # of every Stable Diffusion 1
    assert load_file(path)["decoder.conv_in.weight"].shape == model.parts.autoencoder.decoder.conv_in.weight.shape
