"""Model files are whole or not there, and damage is named with its file."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from ldm import LatentDiffusion
from ldm.io.disk.files import ModelFileError, write_file, write_folder
from ldm.io.folder.autoencoder import load_autoencoder
from ldm.io.folder.load import load_folder, load_text, load_unet
from ldm.io.locate import find_model

UNET = Path("unet") / "diffusion_pytorch_model.safetensors"
VAE = Path("vae") / "diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    """A model folder to damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def test_file_that_does_not_fit_leaves_the_old_one(tmp_path: Path, nearly_full_disk) -> None:
    path = tmp_path / "x.png"
    write_file(path, b"old")
    with nearly_full_disk(2000), pytest.raises(OSError, match=str(path)):
        write_file(path, bytes(100_000))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_model_that_does_not_fit_leaves_no_folder(tiny_folder: Path, tmp_path: Path, nearly_full_disk) -> None:
    model = LatentDiffusion.from_pretrained(tiny_folder)
    with nearly_full_disk(2000), pytest.raises(OSError, match=r"cannot be written|File too large"):
        model.save_pretrained(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), write_folder(tmp_path / "model") as folder:  # noqa: PT012
        (folder / "half").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with write_folder(tmp_path / "model") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("1")
    assert (tmp_path / "model" / "sub" / "a").read_text() == "1"


def test_folder_written_again_keeps_what_others_put_there(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").write_text("mine")
    (tmp_path / "model" / "a").write_text("old")
    with write_folder(tmp_path / "model") as folder:
        (folder / "a").write_text("new")
    assert (tmp_path / "model" / "a").read_text() == "new"
    assert (tmp_path / "model" / "README.md").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


@pytest.mark.parametrize("name", [UNET, VAE, Path("text_encoder") / "model.safetensors"])
def test_missing_weights_are_named(copy: Path, name: Path) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelFileError, match=f"{name} is missing; copy or download"):
        load_folder(copy)


@pytest.mark.parametrize("kept", [0, 5, 1000])
@pytest.mark.parametrize("name", [UNET, VAE, Path("text_encoder") / "model.safetensors"])
def test_truncated_weights_are_named(copy: Path, name: Path, kept: int) -> None:
    (copy / name).write_bytes((copy / name).read_bytes()[:kept])
    with pytest.raises(OSError, match=f"{name} is (truncated|not a whole)"):
        load_folder(copy)


def test_pickled_weights_are_named_and_not_opened(copy: Path) -> None:
    (copy / UNET).unlink()
    (copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(ModelFileError, match=r"diffusion_pytorch_model.bin is a pickle"):
        load_folder(copy)


@pytest.mark.parametrize(
    "name", ["model_index.json", "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"]
)
def test_damaged_configs_are_named(copy: Path, name: str) -> None:
    (copy / name).write_text('{"half": ')
    with pytest.raises(ModelFileError, match=f"{name} is not valid JSON"):
        load_folder(copy)
    (copy / name).write_text("[]")
    with pytest.raises(ModelFileError, match=f"{name} holds list"):
        load_folder(copy)
    (copy / name).unlink()
    with pytest.raises(ModelFileError, match=f"{name} is missing"):
        load_folder(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"more": torch.zeros(1)}, "no place for more"),
        (lambda t: {k: v for k, v in t.items() if k != "conv_in.bias"}, "lack conv_in.bias"),
        (
            lambda t: t | {"conv_in.bias": torch.zeros(9)},
            r"conv_in.bias is \(9,\) where its config.json asks for \(8,\)",
        ),
    ],
)
def test_weights_of_another_network_are_refused(copy: Path, change, message: str) -> None:
    save_file(change(load_file(copy / UNET)), copy / UNET)
    with pytest.raises(ModelFileError, match=message):
        load_folder(copy)


def test_parts_that_do_not_fit_each_other_are_refused(copy: Path) -> None:
    fields = json.loads((copy / "vae" / "config.json").read_text())
    tensors = {k: v for k, v in load_file(copy / VAE).items()}
    for name in ("encoder.conv_out", "quant_conv"):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = tensors[f"{name}.weight"][:4], tensors[f"{name}.bias"][:4]
    tensors["quant_conv.weight"] = tensors["quant_conv.weight"][:, :4]
    for name in ("post_quant_conv", "decoder.conv_in"):
        tensors[f"{name}.weight"] = tensors[f"{name}.weight"][:, :2]
    tensors["post_quant_conv.weight"] = tensors["post_quant_conv.weight"][:2]
    tensors["post_quant_conv.bias"] = tensors["post_quant_conv.bias"][:2]
    save_file({k: v.contiguous() for k, v in tensors.items()}, copy / VAE)
    (copy / "vae" / "config.json").write_text(json.dumps({**fields, "latent_channels": 2}))
    with pytest.raises(ModelFileError, match=r"unet/config.json: in_channels=4, but the vae has 2 channels"):
        load_folder(copy)


def test_half_precision_variant_and_shards_are_found(copy: Path) -> None:
    expected = load_unet(copy).state_dict()
    tensors = load_file(copy / UNET)
    (copy / UNET).unlink()
    names = sorted(tensors)
    for i, part in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in part}, copy / "unet" / f"shard-{i}.safetensors")
    weight_map = {name: f"shard-{i % 2}.safetensors" for i, name in enumerate(names)}
    (copy / f"{UNET}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert all(torch.equal(value, expected[name]) for name, value in load_unet(copy).state_dict().items())
    (copy / "unet" / "shard-1.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"shard-1.safetensors is missing"):
        load_unet(copy)
    save_file({name: value.half() for name, value in tensors.items()}, copy / UNET.with_suffix(".fp16.safetensors"))
    assert next(load_unet(copy).parameters()).dtype == torch.float32


def test_attention_names_of_old_autoencoders_are_read(copy: Path) -> None:
    expected = load_autoencoder(copy)[0].state_dict()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(copy / VAE)
    for new, name in old.items():
        tensors = {
            key.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): value for key, value in tensors.items()
        }
    save_file(tensors, copy / VAE)
    assert any("proj_attn" in name for name in tensors)
    assert all(torch.equal(value, expected[name]) for name, value in load_autoencoder(copy)[0].state_dict().items())


def test_parts_load_from_their_own_folders(tiny_folder: Path) -> None:
    whole = load_folder(tiny_folder)
    assert torch.equal(load_unet(tiny_folder / "unet").conv_in.weight, whole.unet.conv_in.weight)
    autoencoder, latent_format = load_autoencoder(tiny_folder / "vae")
    assert torch.equal(autoencoder.decoder.conv_in.weight, whole.autoencoder.decoder.conv_in.weight)
    assert latent_format == whole.latent_format and latent_format.scale == 0.7
    assert load_text(tiny_folder).max_tokens == 14


def test_latent_format_that_diffusers_would_ignore_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    import dataclasses

    model = LatentDiffusion.from_pretrained(tiny_folder)
    shifted = dataclasses.replace(model.parts.latent_format, shift=0.5)
    with pytest.raises(ValueError, match=r"latent_format.shift=0.5 .* fold_whitening"):
        LatentDiffusion(dataclasses.replace(model.parts, latent_format=shifted)).save_pretrained(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"stepz": 3}, "ldm.json: stepz is unknown"),
        ({"guidance_scale": "4"}, "guidance_scale='4' is not a number from"),
    ],
)
def test_own_defaults_are_checked(copy: Path, content: dict, message: str) -> None:
    (copy / "ldm.json").write_text(json.dumps(content))
    with pytest.raises(ModelFileError, match=message):
        load_folder(copy)


def test_own_defaults_are_kept_and_diffusers_looks_past_them(copy: Path) -> None:
    (copy / "ldm.json").write_text(json.dumps({"num_inference_steps": 7, "guidance_scale": 4}))
    assert load_folder(copy).defaults.num_inference_steps == 7
    assert StableDiffusionPipeline.from_pretrained(copy).unet is not None


def test_unknown_model_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="model 'nothing-here' is neither shipped nor a folder"):
        find_model("nothing-here")


def test_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ModelFileError, match="'someone/model' is no folder here, and the hub cannot be reached"
    ) as error:
        find_model("someone/model")
    assert "\n" not in str(error.value)
