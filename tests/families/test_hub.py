"""Where models come from: hub ids go online and nothing else does; single files and folders give the same model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import make_family, save
from safetensors.torch import load_file, save_file
from single_files import whole_file

from ldm import LatentDiffusion
from ldm.generation.conditions import ExtraConditioning
from ldm.io.disk.files import ModelFileError
from ldm.io.folder.load import load_folder, load_unet
from ldm.io.locate import find_model
from ldm.io.metadata.png import png_bytes
from ldm.io.single_file.checkpoint import read_checkpoint
from ldm.io.single_file.load import load_single_file
from ldm.io.single_file.to_folder import save_as_folder
from ldm.training.stages.latent_diffusion import LatentDiffusionRun
from ldm.training.stages.train import train


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Where someone tried to go online; nobody arrives."""
    import socket

    tried: list[object] = []

    def refuse(*where: object, **_: object) -> None:
        tried.append(where)
        raise OSError("the network is unreachable")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # whatever the environment says
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tried


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SD 1 as diffusers saves it, not to be written in."""
    place = tmp_path_factory.mktemp("sd1")
    return save(make_family("sd1", place), place / "model")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[dict[str, Any]]:
    """A hub with one model; the requests that it got."""
    requests: list[dict[str, Any]] = []

    def snapshot_download(name: str, **options: Any) -> str:
        requests.append({"name": name, **options})
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return requests


def fetched(request: dict[str, Any], name: str) -> bool:
    """Whether the hub's own rule lets a file of the repository through."""
    from huggingface_hub.utils import filter_repo_objects

    kept = filter_repo_objects(
        [name], allow_patterns=request["allow_patterns"], ignore_patterns=request["ignore_patterns"]
    )
    return list(kept) == [name]


def test_folders_and_shipped_models_stay_offline(folder: Path, online: list) -> None:
    model = LatentDiffusion.from_pretrained(folder)
    model("apple", num_inference_steps=1)
    assert find_model("emoji").is_dir()
    assert online == []


def test_a_hub_id_is_fetched_at_its_revision(hub: list, online: list) -> None:
    model = LatentDiffusion.from_pretrained("someone/model", revision="v1.0")
    assert model.name == "someone/model" and online == []
    (request,) = hub
    assert (request["name"], request["revision"]) == ("someone/model", "v1.0")
    for name in (
        "model_index.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "text_encoder_2/model.safetensors",
        "tokenizer_2/merges.txt",
        "low_res_scheduler/scheduler_config.json",
    ):
        assert fetched(request, name), name
    for name in (
        "v1-5-pruned.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "safety_checker/model.safetensors",
    ):
        assert not fetched(request, name), name


def test_a_variant_is_all_that_is_fetched(hub: list) -> None:
    with pytest.raises(ModelFileError, match="has no weights of variant='fp16'"):  # the only model of this hub has none
        LatentDiffusion.from_pretrained("someone/model", variant="fp16")
    (request,) = hub
    for name in ("unet/x.fp16.safetensors", "unet/x.fp16-00001-of-00002.safetensors", "unet/x.index.fp16.json"):
        assert fetched(request, name), name
    for name in ("unet/x.safetensors", "unet/x.non_ema.fp16.safetensors", "vae/x-00001-of-00002.safetensors"):
        assert not fetched(request, name), name


def test_a_revision_of_a_folder_makes_no_sense(folder: Path) -> None:
    with pytest.raises(ValueError, match="revision='main' is for models on the hub"):
        LatentDiffusion.from_pretrained(folder, revision="main")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="is a file, not a folder; open it with from_single_file"):
        LatentDiffusion.from_pretrained(tmp_path / "x.safetensors")


def test_a_repository_without_a_model_folder_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(ModelFileError, match=r"'someone/file' on the hub is no model folder .* from_single_file"):
        find_model("someone/file")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("RepositoryNotFoundError", "neither a folder nor a public model on the hub; check the spelling"),
        ("GatedRepoError", "only to those who accept its terms on the hub; do so, then `hf auth login`"),
        ("RevisionNotFoundError", "has no revision='v9' on the hub; leave it out"),
        ("LocalEntryNotFoundError", "the hub cannot be reached to fetch it"),
    ],
)
def test_what_the_hub_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch, error: str, message: str) -> None:
    from huggingface_hub import errors

    def refuse(*_: object, **__: object) -> None:
        kind = getattr(errors, error)
        raise kind.__new__(kind)  # without the response of a server, of which its versions want different kinds

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(ModelFileError, match=message) as raised:
        find_model("someone/model", revision="v9")
    assert "\n" not in str(raised.value)


def test_a_hub_id_is_what_goes_online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, online: list) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelFileError, match="the hub cannot be reached") as error:
        find_model("someone/model")
    assert online and "\n" not in str(error.value)


def test_a_folder_of_pickles_says_how_to_get_a_safe_one(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "old"))
    for path in copy.glob("*/*.safetensors"):
        torch.save(load_file(path), path.with_name(path.name.replace("model.safetensors", "model.bin")))
        if path.parent.name == "text_encoder":
            path.with_name("model.bin").rename(path.with_name("pytorch_model.bin"))
        path.unlink()
    with pytest.raises(ModelFileError, match=r"is a pickle, which may run code .*; `ldm convert .* --to safetensors`"):
        load_folder(copy)
    from ldm.io.convert_dtype import convert_dtype

    convert_dtype(copy, tmp_path / "safe", None)
    expected, safe = load_folder(folder), load_folder(tmp_path / "safe")
    for network in ("unet", "autoencoder", "text"):
        mine, theirs = getattr(safe, network).state_dict(), getattr(expected, network).state_dict()
        assert all(torch.equal(mine[name], value) for name, value in theirs.items()), network


def test_a_folder_in_the_wanted_type_is_mapped_not_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight of another type is read into memory of its own; one of the wanted type never is."""
    opened: list[str] = []
    real = torch.empty

    def empty(*size: Any, **options: Any) -> torch.Tensor:
        opened.extend([str(options.get("dtype"))] if size != (0,) else [])  # an empty one is filled by the mapping
        return real(*size, **options)

    monkeypatch.setattr("ldm.io.tensors.safetensors_file.torch.empty", empty)
    load_unet(folder)
    assert "torch.uint8" not in opened
    assert load_unet(folder, torch.float16).conv_out.weight.dtype == torch.float16
    assert "torch.uint8" in opened


def test_half_precision_leaves_the_autoencoder_whole(folder: Path) -> None:
    half = LatentDiffusion.from_pretrained(folder, dtype="fp16").parts
    assert half.text.towers[0].model.dtype == half.unet.conv_out.weight.dtype == torch.float16
    assert half.autoencoder.quant_conv.weight.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sdxl-refiner", "x4-upscaler"])
def test_a_single_file_and_its_folder_are_the_same_model(tmp_path: Path, family: str) -> None:
    state, _ = whole_file(family)
    save_file(state, tmp_path / "x.safetensors")
    prediction = "v_prediction" if family == "sd2" else None
    save_as_folder(read_checkpoint(tmp_path / "x.safetensors", prediction_type=prediction), tmp_path / "model")
    model = LatentDiffusion.from_single_file(tmp_path / "x.safetensors", prediction_type=prediction)
    one, other = model.parts, load_folder(tmp_path / "model")
    assert model.name == str(tmp_path / "x.safetensors")
    names = ("latent_format", "process", "prediction_type", "defaults", "zeros_for_empty", "low_resolution", "kind")
    for field in names:
        assert getattr(one, field) == getattr(other, field), field
    for network in ("unet", "autoencoder", "text"):
        mine, theirs = getattr(one, network), getattr(other, network)
        assert mine.state_dict().keys() == theirs.state_dict().keys()
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in mine.state_dict().items()), network
    encoded = [parts.text.encode(["a photo of a cat", ""]) for parts in (one, other)]
    assert torch.equal(encoded[0].tokens, encoded[1].tokens) and torch.equal(encoded[0].pooled, encoded[1].pooled)
    assert [tower.tokenizer.pad_token_id for tower in one.text.towers] == [
        tower.tokenizer.pad_token_id for tower in other.text.towers
    ]


def test_options_of_single_files_are_passed_on(tmp_path: Path) -> None:
    state, _ = whole_file("sd1")
    save_file(state, tmp_path / "x.safetensors")
    options: dict[str, Any] = {"prediction_type": "v_prediction", "zero_terminal_snr": True, "family": "sd1"}
    model = LatentDiffusion.from_single_file(str(tmp_path / "x.safetensors"), dtype="bf16", **options)
    assert model.parts.prediction_type == "v_prediction" and model.parts.unet.conv_in.weight.dtype == torch.bfloat16
    assert model.parts.process == load_single_file(tmp_path / "x.safetensors", **options).process
    with pytest.raises(ValueError, match="ema=True, but"):
        LatentDiffusion.from_single_file(tmp_path / "x.safetensors", ema=True)


def test_the_command_line_opens_single_files_and_repeats_the_conditioning(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from ldm.cli import app

    state, _ = whole_file("sdxl")
    save_file(state, tmp_path / "x.safetensors")
    model = LatentDiffusion.from_single_file(tmp_path / "x.safetensors")
    extra = ExtraConditioning(original_size=(64, 32))
    drawn = model("a cat", seed=1, num_inference_steps=1, width=64, height=64, conditions=extra)
    (recipe,) = drawn.recipes
    (tmp_path / "first.png").write_bytes(png_bytes(drawn.images[0], recipe.parameters(), recipe.to_json()))
    command = ["generate", "--from-image", str(tmp_path / "first.png"), "--output", str(tmp_path / "again.png")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "first.png").read_bytes()


def test_an_index_of_nothing_known_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, "_class_name": "KandinskyPipeline"}))
    with pytest.raises(ModelFileError, match="_class_name='KandinskyPipeline' is not supported; only StableDiffusion"):
        load_folder(copy)


def test_frozen_parts_of_a_training_may_be_hub_ids(online):
    """`autoencoder`, `text` and `initial` go the way of a model's name, and the message names the setting."""
    run = LatentDiffusionRun(output="runs/x", autoencoder="someone/some-model")
    with pytest.raises(
        ModelFileError, match="model 'someone/some-model' is no folder here, and the hub cannot be reached"
    ):
        train(run)
    assert online
    with pytest.raises(FileNotFoundError, match="autoencoder: model 'runs/a/export' is neither shipped nor a folder"):
        train(replace(run, autoencoder="runs/a/export"))
