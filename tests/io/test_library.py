"""What has a name: found in LDM_HOME and in the folders of A1111 and ComfyUI, and nowhere created unasked."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from ldm import LatentDiffusion, Request
from ldm.cli import app
from ldm.generation.from_picture import request_from
from ldm.io import library
from ldm.io.disk.files import ModelFileError
from ldm.io.locate import find_autoencoder
from ldm.samplers import SAMPLERS
from ldm.schedules import SCHEDULES

LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
OPTIONS = {"num_inference_steps": 2, "seed": 0, "output_type": "latent"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LDM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LDM_CONFIG", str(tmp_path / "config" / "config.json"))
    return tmp_path / "home"


def ldm(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def lora(path: Path, size: float = 1.0, metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    factors = {f"{LAYER}.lora_down.weight": torch.full((1, 16), size), f"{LAYER}.lora_up.weight": torch.ones(16, 1)}
    save_file(factors, path, metadata)
    return path


def empty(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_nothing_is_created_by_looking(home: Path) -> None:
    assert (
        library.find("loras", "ink") is None and library.wildcards() is None and list(library.entries("models")) == []
    )
    assert ldm("loras", "list").exit_code == ldm("config", "show").exit_code == 0
    assert not home.exists() and not library.settings_file().parent.exists()


@pytest.mark.parametrize(
    ("kind", "places"),
    [
        ("models", ["models/checkpoints/x.safetensors", "models/Stable-diffusion/sub/x.ckpt"]),
        ("loras", ["models/loras/x.safetensors", "models/Lora/sub/x.pt"]),
        ("embeddings", ["models/embeddings/x.pt", "embeddings/x.bin"]),
        ("vae", ["models/vae/x.safetensors", "models/VAE/x.pt"]),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_folders_of_other_programs_are_searched(
    kind: str, places: list[str], inside: bool, home: Path, tmp_path: Path
) -> None:
    for number, place in enumerate(places):
        root = tmp_path / f"program{number}"
        path = empty(root / place)
        empty(root / "models" / "controlnet" / "x.safetensors")
        named = root / "models" if inside and place.startswith("models/") else root
        assert ldm("config", "set", "models_dir", named).exit_code == 0
        assert list(library.entries(kind)) == [("x", path)]
        assert library.find(kind, "x") == library.find(kind, "X") == library.find(kind, path.name) == path
        assert library.find(kind, "controlnet") is None
    assert str(named) in ldm("config", "show").stdout
    assert ldm("config", "set", "models_dir").exit_code == 0 and list(library.entries(kind)) == []


def test_ours_is_before_theirs_and_of_several_one_is_named(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = empty(tmp_path / "comfy" / "models" / "loras" / "ink.safetensors")
    library.set_setting("models_dir", [str(tmp_path / "comfy")])
    assert library.find("loras", "ink") == theirs
    ours = empty(home / "loras" / "ink.safetensors")
    with caplog.at_level(logging.WARNING):
        assert library.find("loras", "ink") == ours
    assert f"loras ink is there 2 times: {ours} is taken, not {theirs}" in caplog.text


def test_a_path_stays_a_path(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty(home / "loras" / "ink.safetensors")
    monkeypatch.chdir(tmp_path)
    empty(tmp_path / "ink.safetensors")
    assert library.known_path("loras", "ink.safetensors") == "ink.safetensors"
    assert library.known_path("loras", "ink") == str(home / "loras" / "ink.safetensors")
    assert library.known_path("loras", "../loras/ink") == "../loras/ink"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("model_dir", "."), "unknown setting 'model_dir'; did you mean 'models_dir'"),
        (("models_dir", "none"), "models_dir: none is no folder"),
    ],
)
def test_wrong_settings_are_named(arguments: tuple[str, ...], said: str, home: Path) -> None:
    result = ldm("config", "set", *arguments)
    assert result.exit_code != 0 and said in result.stderr and not library.settings_file().exists()


def test_a_damaged_file_of_settings_is_named(home: Path) -> None:
    empty(library.settings_file()).write_text('{"models_dir": 3}')
    with pytest.raises(ValueError, match=r"config.json: models_dir=3 is no setting"):
        library.settings()


def test_tags_find_loras(home: Path, tiny_folder: Path) -> None:
    path = lora(home / "loras" / "ink.safetensors")
    model, other = (LatentDiffusion.from_pretrained(tiny_folder) for _ in range(2))
    plain = model("apple", **OPTIONS).images
    found = model("apple<lora:ink:0.8>", **OPTIONS)
    other.load_lora(path, 0.8)
    assert torch.equal(found.images, other("apple", **OPTIONS).images) and not torch.equal(found.images, plain)
    assert torch.equal(model("apple", **OPTIONS).images, plain)  # it stays without effect elsewhere
    again = LatentDiffusion.from_pretrained(tiny_folder)("apple<lora:ink:0.8>", **OPTIONS)
    assert again.recipes == model("apple<lora:ink:0.8>", **OPTIONS).recipes
    with pytest.raises(ValueError, match="unknown LoRA 'inc'"):
        model("apple<lora:inc>", **OPTIONS)


def test_models_autoencoders_words_and_wildcards_are_found(home: Path, tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, home / "models" / "tiny")
    shutil.copytree(tiny_folder / "vae", home / "vae" / "other")
    lora(home / "loras" / "ink.safetensors")
    (home / "embeddings").mkdir()
    save_file({"emb_params": torch.ones(1, 16)}, home / "embeddings" / "spark.safetensors")
    empty(home / "wildcards" / "fruit.txt").write_text("apple\n")
    model = LatentDiffusion.from_pretrained("tiny", vae="other")
    model.load_lora("ink", 0.5)
    assert model.load_embedding("spark") == "spark"
    result = model("red __fruit__ spark", **OPTIONS)
    assert result.prompts == ["red apple spark"]
    recipe = result.recipes[0]
    assert recipe.loras == {str(home / "loras" / "ink.safetensors"): 0.5}
    assert recipe.embeddings == {str(home / "embeddings" / "spark.safetensors"): "spark"}
    arguments = ("--model", "tiny", "--vae", "other", "--lora", "ink", "--embedding", "spark", "--steps", "1")
    done = ldm("generate", "a __fruit__", *arguments, "--output", tmp_path / "x.png")
    assert done.exit_code == 0 and (tmp_path / "x.png").is_file(), done.stderr
    assert Request(model="tiny").model == "tiny"


def test_models_of_other_tools_recipes_are_found(home: Path, tmp_path: Path) -> None:
    path = empty(home / "models" / "v1-5-pruned.safetensors")
    text = "a fox\nSteps: 3, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64, Model: "
    for model, expected in (("v1-5-pruned", str(path)), ("v1-4", "emoji"), ("emoji", "emoji")):
        information = PngInfo()
        information.add_text("parameters", text + model)
        Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=information)
        assert request_from(tmp_path / "x.png")[0].model == expected


@pytest.mark.parametrize("files", [["config.json"], ["vae/config.json"], []])
def test_an_autoencoder_on_the_hub_is_fetched_without_the_models_beside_it(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    requested: list[str] = []

    def fetch(name: str, **options: Any) -> str:
        requested.extend([name, *options["allow_patterns"]])
        return str(tmp_path)

    for file in files:
        empty(tmp_path / file)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    if files:
        assert find_autoencoder("owner/vae") == tmp_path
    else:
        with pytest.raises(ModelFileError, match=r"has no autoencoder's config.json"):
            find_autoencoder("owner/vae")
    one = ["config.json", "diffusion_pytorch_model*.safetensors"]
    assert requested == ["owner/vae", *one, *(f"vae/{file}" for file in one)]


def test_lists_print_what_there_is(home: Path, tiny_folder: Path) -> None:
    shutil.copytree(tiny_folder, home / "models" / "tiny")
    lora(home / "loras" / "ink.safetensors", metadata={"ss_base_model_version": "sdxl_base_v1-0"})
    empty(home / "loras" / "bad.safetensors")
    models = ldm("models", "list").stdout.splitlines()
    assert models[0].split()[:2] == ["emoji", "shipped"] and models[1].startswith("restorer ")
    assert models[2].split()[:2] == ["tiny", "StableDiffusionPipeline"]
    bad, ink = ldm("loras", "list").stdout.splitlines()
    assert "damaged" in bad and ink.split() == ["ink", "sdxl_base_v1-0", str(home / "loras" / "ink.safetensors")]
    assert ldm("embeddings", "list").stdout == ""
    names = {line.split()[0] for line in ldm("samplers", "list").stdout.splitlines()}
    assert names <= SAMPLERS.keys() and {"ddim", "dpmpp_2m"} <= names
    assert {line.split()[0] for line in ldm("schedules", "list").stdout.splitlines()} == SCHEDULES.keys()
