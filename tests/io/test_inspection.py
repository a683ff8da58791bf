"""`ldm inspect` and `ldm convert` of what people have besides whole models: adapters, words, autoencoders, names."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from single_files import file_vae
from typer.testing import CliRunner, Result

from ldm.cli import app
from ldm.io.inspection import inspect_model, trigger_words
from ldm.io.shipped import shipped_models

TAGS = {"ss_tag_frequency": json.dumps({"10_ink": {"ink": 9, " fox": 4}, "reg": {"fox": 6, "a": 1, "b": 1, "c": 1}})}


def ldm(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def lora(path: Path) -> Path:
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    factors = {f"{stem}.lora_down.weight": torch.ones(4, 768), f"{stem}.lora_up.weight": torch.ones(8, 4)}
    save_file(
        factors | {f"{stem}.alpha": torch.tensor(2.0), "bundle_emb.spark.emb_params": torch.ones(2, 768)}, path, TAGS
    )
    return path


def test_a_lora_shows_family_rank_and_words(tmp_path: Path) -> None:
    report = inspect_model(lora(tmp_path / "x.safetensors"))
    assert report.type == "a LoRA for Stable Diffusion 1.x, kohya names"
    assert report.details == {
        "rank": "4",
        "alpha": "2",
        "layers": "LowRank (1)",
        "embeddings": "spark",
        "trigger words": "fox, ink, a, b, c",
    }
    shown = ldm("inspect", tmp_path / "x.safetensors").stdout
    assert "fox, ink" in shown and "not supported" not in shown and "prediction" not in shown
    content = json.loads(ldm("inspect", tmp_path / "x.safetensors", "--json").stdout)
    assert "prediction" not in content and "left_out" not in content and content["sha256"]


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": {"b": "c"}}'])
def test_damaged_tags_are_no_words(text: str) -> None:
    assert trigger_words({"ss_tag_frequency": text}) == []


@pytest.mark.parametrize(
    ("tensors", "kind", "vectors"),
    [
        ({"emb_params": torch.ones(3, 768)}, "a textual inversion for Stable Diffusion 1.x", "3"),
        ({"<spark>": torch.ones(1024)}, "a textual inversion for Stable Diffusion 2.x", "1"),
        (
            {"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)},
            "a textual inversion for Stable Diffusion XL",
            "2",
        ),
    ],
)
def test_an_embedding_shows_its_vectors(tensors: dict, kind: str, vectors: str, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "spark.safetensors")
    report = inspect_model(tmp_path / "spark.safetensors")
    assert (report.type, report.details) == (kind, {"vectors": vectors, "word": "spark"})


def test_shipped_names_and_folders_are_shown() -> None:
    shown = ldm("inspect", "emoji").stdout
    assert "U-Net" in shown and "autoencoder" in shown and "sha256" not in shown
    assert ldm("inspect", shipped_models()["emoji"], "--json").stdout == ldm("inspect", "emoji", "--json").stdout


def test_the_shipped_model_converts_by_its_name(tmp_path: Path) -> None:
    assert ldm("convert", "emoji", tmp_path / "out").exit_code == 0
    for file in shipped_models()["emoji"].rglob("*.safetensors"):
        found = load_file(tmp_path / "out" / file.relative_to(shipped_models()["emoji"]))
        assert all(torch.equal(value, found[name]) for name, value in load_file(file).items())


def test_an_autoencoder_alone_converts_both_ways_and_is_shown(tmp_path: Path) -> None:
    vae = AutoencoderKL(block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2,
                        up_block_types=("UpDecoderBlock2D",) * 2)  # fmt: skip
    state = file_vae(dict(vae.state_dict()), 2)
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "x.safetensors")
    assert inspect_model(tmp_path / "x.safetensors").type == "an autoencoder alone, 4 channels, 2 pixels a cell"
    assert ldm("convert", tmp_path / "x.safetensors", tmp_path / "folder").exit_code == 0
    opened = AutoencoderKL.from_pretrained(tmp_path / "folder")
    assert all(torch.equal(value, opened.state_dict()[name]) for name, value in vae.state_dict().items())
    assert "an autoencoder alone" in ldm("inspect", tmp_path / "folder").stdout
    assert ldm("convert", tmp_path / "folder", tmp_path / "y.safetensors").exit_code == 0
    assert all(torch.equal(value, state[name]) for name, value in load_file(tmp_path / "y.safetensors").items())
    refused = ldm("convert", tmp_path / "x.safetensors", tmp_path / "z", "--to", "hf", "--ema")
    assert refused.exit_code == 2 and "--ema is for whole models" in refused.stderr and not (tmp_path / "z").exists()
