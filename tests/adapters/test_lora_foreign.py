"""What other programs put into adapter files: words of prompts, ComfyUI's names, adapters of other kinds of models."""

from pathlib import Path

import pytest
import torch
from adapters import PROJ, STEM, TINY, kohya, low_ranks, tiny_text, tiny_unet, unet_layers
from safetensors.torch import load_file, save_file
from single_files import file_unet
from torch import Tensor

from ldm import LatentDiffusion
from ldm.adapters.lora.adapter_set import LoraSet
from ldm.adapters.lora.deltas import Delta, LowRank
from ldm.io.disk.files import ModelFileError
from ldm.io.lora.family import made_for
from ldm.io.lora.load import load_lora

SPARK = torch.randn(2, 16, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("key", ["emb_params", "string_to_param.*"])
def test_embeddings_in_a_lora_are_words_of_prompts(key: str, tiny_folder: Path, tmp_path: Path) -> None:
    """As OneTrainer bundles them: drawn as with the same embedding in a file of its own."""
    model, other = (LatentDiffusion.from_pretrained(tiny_folder) for _ in range(2))
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    factors = {f"{layer}.lora_down.weight": torch.ones(1, 16), f"{layer}.lora_up.weight": torch.zeros(16, 1)}
    save_file(factors | {f"bundle_emb.a.spark.{key}": SPARK}, tmp_path / "ink.safetensors")
    save_file({"emb_params": SPARK}, tmp_path / "a.spark.safetensors")
    report = model.load_lora(tmp_path / "ink.safetensors")
    assert report.unmatched == () and str(report).endswith("with the words a.spark")
    other.load_embedding(tmp_path / "a.spark.safetensors")
    assert torch.equal(model.embeddings["a.spark"].vectors, SPARK)
    options = {"seed": 1, "num_inference_steps": 2, "output_type": "latent"}
    pictures = [each("red a.spark", **options).images for each in (model, other)]
    assert torch.equal(*pictures) and not torch.equal(pictures[0], model("red apple", **options).images)


def test_both_halves_of_a_bundled_embedding_are_read(tmp_path: Path) -> None:
    halves = {"bundle_emb.spark.clip_l": SPARK, "bundle_emb.spark.clip_g": SPARK + 1}
    path = kohya(tmp_path / "x.safetensors", halves)
    (embedding,) = load_lora(LoraSet(tiny_unet()), path, widths=[16, 16]).embeddings
    assert torch.equal(embedding.vectors, torch.cat([SPARK, SPARK + 1], dim=1))


@pytest.mark.parametrize("widths", [[], [24], [16, 24]])
def test_an_embedding_for_other_towers_is_unmatched(widths: list[int], tmp_path: Path) -> None:
    path, loras = kohya(tmp_path / "x.safetensors", {"bundle_emb.spark.emb_params": SPARK}), LoraSet(tiny_unet())
    with pytest.raises(ModelFileError, match=r"bundle_emb.spark have no place in this model \(1 of 2 matched\)"):
        load_lora(loras, path, widths=widths)
    report = load_lora(loras, path, allow_unmatched=True, widths=widths)
    assert report.embeddings == () and report.unmatched == ("bundle_emb.spark",)


@pytest.mark.parametrize("prefix", ["diffusion_model.", "unet.", ""])
@pytest.mark.parametrize("compvis", [True, False])
def test_dotted_names_are_known(prefix: str, compvis: bool, tmp_path: Path) -> None:
    """`diffusion_model.output_blocks.5.1.proj_in.lora_up.weight`, as ComfyUI saves adapters, and diffusers' names."""
    deltas = low_ranks(unet_layers(tiny_unet()))
    ours = {f"{name.removeprefix('unet.')}.weight": name for name in deltas}
    theirs = file_unet(ours, 2, 1, (True, False)) if compvis else ours
    factors = {}
    for name, address in theirs.items():
        delta, stem = deltas[address], f"{prefix}{name.removesuffix('.weight')}"
        factors |= {f"{stem}.lora_down.weight": delta.down, f"{stem}.lora_up.weight": delta.up}
    save_file(factors, tmp_path / "x.safetensors")
    loras = LoraSet(tiny_unet())
    report = load_lora(loras, tmp_path / "x.safetensors")
    assert report.style == ("comfyui" if prefix == "diffusion_model." else "diffusers")
    assert all(torch.equal(loras.deltas("x")[name].up, delta.up) for name, delta in deltas.items())


def test_names_of_the_lycoris_library_and_of_comfyuis_text_encoders_are_known(tmp_path: Path) -> None:
    kohya(tmp_path / "k.safetensors")
    factors = {k.replace("lora_unet", "lycoris"): v for k, v in load_file(tmp_path / "k.safetensors").items()}
    layer = "encoder.layers.1.mlp.fc1"
    for place in ("clip_l", "clip_g"):
        stem = f"text_encoders.{place}.transformer.text_model.{layer}"
        factors |= {f"{stem}.lora_down.weight": torch.ones(2, 16), f"{stem}.lora_up.weight": torch.ones(32, 2)}
    save_file(factors, tmp_path / "x.safetensors")
    loras = LoraSet(tiny_unet(), tiny_text(), tiny_text(projection=True))
    load_lora(loras, tmp_path / "x.safetensors")
    towers = [f"{tower}.text_model.{layer}" for tower in ("text_encoder", "text_encoder_2")]
    assert sorted(loras.deltas("x")) == sorted([PROJ, *towers])


def layer(inputs: int = 4) -> LowRank:
    return LowRank(torch.zeros(1, inputs), torch.zeros(4, 1))


@pytest.mark.parametrize(
    ("name", "delta", "title"),
    [
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", layer(768), "Stable Diffusion 1.x"),
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", layer(1024), "Stable Diffusion 2.x"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", layer(2048), "Stable Diffusion XL"),
        ("unet.mid_block.attentions.0.transformer_blocks.7.attn1.to_q", layer(), "Stable Diffusion XL"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1", layer(), "Stable Diffusion XL"),
        ("lora_unet_up_blocks_3_attentions_0_transformer_blocks_0_attn1_to_q", layer(), "Stable Diffusion 1.x or 2.x"),
        ("lora_unet_double_blocks_0_img_attn_proj", layer(), "FLUX"),
        ("transformer.single_transformer_blocks.0.attn.to_q", layer(), "FLUX"),
        ("transformer.transformer_blocks.0.attn.add_k_proj", layer(), "Stable Diffusion 3"),
        ("lora_unet_joint_blocks_0_x_block_attn_qkv", layer(), "Stable Diffusion 3"),
        ("transformer.transformer_blocks.0.attn1.to_q", layer(), "PixArt"),
        ("diffusion_model.blocks.0.self_attn.q", layer(), "Wan"),
        ("lora_unet_mid_block_attentions_0_proj_in", layer(), ""),
    ],
)
def test_the_kind_of_model_is_known_by_names_and_widths(name: str, delta: Delta, title: str) -> None:
    assert made_for({name: delta, "other": layer()}) == title


def test_the_message_shows_three_names_and_what_they_look_like(tmp_path: Path) -> None:
    stems = [f"lora_unet_double_blocks_{i}_img_attn_proj" for i in range(5)]
    extra: dict[str, Tensor] = {}
    for stem in stems:
        extra |= {f"{stem}.lora_down.weight": torch.ones(1, 2), f"{stem}.lora_up.weight": torch.ones(2, 1)}
    with pytest.raises(ModelFileError) as error:
        load_lora(LoraSet(tiny_unet(config=TINY)), kohya(tmp_path / "x.safetensors", extra))
    assert f"{', '.join(stems[:3])} and 2 more have no place in this model (1 of 6 matched)" in str(error.value)
    assert str(error.value).endswith("the LoRA is for FLUX; allow_unmatched=True (--allow-unmatched) leaves them out")
    assert STEM not in str(error.value)


def test_recipes_repeat_a_lora_that_was_loaded_in_part(tiny_folder: Path, tmp_path: Path) -> None:
    model = LatentDiffusion.from_pretrained(tiny_folder)
    assert not model.loaded()["allow_unmatched"]
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    factors = {f"{layer}.lora_down.weight": torch.ones(1, 16), f"{layer}.lora_up.weight": torch.ones(16, 1)}
    save_file(factors | {"nowhere": torch.ones(1)}, tmp_path / "x.safetensors")
    model.load_lora(tmp_path / "x.safetensors", allow_unmatched=True)
    assert model("apple", num_inference_steps=1, seed=0).recipes[0].request().allow_unmatched
