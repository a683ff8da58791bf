"""Stable Diffusion XL: two towers under one prompt syntax, sizes, and the empty negative prompt, as in diffusers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import low_rank
from families import NEGATIVE, PROMPTS, draw_there, make_family, save
from safetensors.torch import save_file
from torch import Tensor

from conditioning.clip.clip_text import ClipText
from conditioning.clip.pair import ClipPair
from conditioning.clip.tokenizer import ClipTokenizer
from conditioning.prompt.encoder import PromptEncoder
from ldm import LatentDiffusion
from ldm.generation.conditions import ExtraConditioning
from ldm.io.embedding import load_embedding
from ldm.io.folder.load import load_text

Made = tuple[LatentDiffusion, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    known: dict[str, Made] = {}

    def get(name: str) -> Made:
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            pipeline = make_family(name, folder)
            known[name] = LatentDiffusion.from_pretrained(save(pipeline, folder / "model")), pipeline
        return known[name]

    return get


@pytest.fixture(scope="module")
def pair(made) -> ClipPair:
    text = made("sdxl")[0].parts.text
    assert isinstance(text, ClipPair)
    return text


def draw_here(model: LatentDiffusion, first: Tensor, **options: Any) -> Tensor:
    options = {"negative_prompt": NEGATIVE, "num_inference_steps": 4, "guidance_scale": 5.0, **options}
    return model(PROMPTS, latents=first[:, :4], output_type="pt", **options).images


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_no_negative_prompt_is_zeros_as_in_diffusers(made) -> None:
    model, pipeline = made("sdxl")
    assert pipeline.config.force_zeros_for_empty_prompt and model.parts.zeros_for_empty
    expected, first = draw_there("sdxl", pipeline, negative_prompt=None)
    close(draw_here(model, first, negative_prompt=""), expected)
    encoded, _ = draw_there("sdxl", pipeline, negative_prompt=["", ""])
    assert (expected - encoded).abs().max() > 1e-2
    close(draw_here(model, first, negative_prompt=" "), encoded)  # a text without words, not an empty one


def test_a_refiner_reads_its_empty_negative_prompt(made) -> None:
    model, pipeline = made("refiner")
    assert not model.parts.zeros_for_empty
    expected, first = draw_there("refiner", pipeline, negative_prompt=None)
    close(draw_here(model, first, negative_prompt=""), expected)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("sdxl", {"original_size": (64, 48), "crops_coords_top_left": (5, 7), "target_size": (40, 96)}),
        ("sdxl", {"original_size": (512, 512)}),
        ("refiner", {"original_size": (64, 48), "crops_coords_top_left": (5, 7)}),
        ("refiner", {"aesthetic_score": 8.5, "negative_aesthetic_score": 1.5}),
    ],
)
def test_sizes_and_scores_do_what_they_do_in_diffusers(made, name: str, numbers: dict) -> None:
    model, pipeline = made(name)
    expected, first = draw_there(name, pipeline, **numbers)
    close(draw_here(model, first, conditions=ExtraConditioning(**numbers)), expected)
    assert (draw_here(model, first) - expected).abs().max() > 1e-3


def test_clip_skip_counts_from_the_last_layer_but_one(made) -> None:
    model, pipeline = made("sdxl")
    # Without guidance: diffusers does not skip for the negative prompt.
    expected, first = draw_there("sdxl", pipeline, clip_skip=1, guidance_scale=1.0)
    close(draw_here(model, first, clip_skip=1, guidance_scale=1.0), expected)
    with pytest.raises(ValueError, match="clip_skip=2 is out of range for 2 layers; use 0 to 1"):
        draw_here(model, first, clip_skip=2)


def test_a_recipe_records_the_size_conditioning(made) -> None:
    model, _ = made("sdxl")
    extra = ExtraConditioning(original_size=(64, 48), crops_coords_top_left=(0, 3))
    options = {"seed": 2, "num_inference_steps": 2, "guidance_scale": 2.0}
    drawn = model("apple", conditions=extra, **options)
    recipe = drawn.recipes[0]
    assert recipe.conditions == {"original_size": [64, 48], "crops_coords_top_left": [0, 3]}
    assert type(recipe).from_json(recipe.to_json(), "here") == recipe
    again = model("apple", conditions=ExtraConditioning.from_recipe(recipe.conditions), **options)
    assert again.images[0].tobytes() == drawn.images[0].tobytes()
    assert model("apple", **options).images[0].tobytes() != drawn.images[0].tobytes()


PROMPT = "a (red:1.4) apple [and] a rocket, " * 4 + "BREAK two foxes"


@pytest.mark.parametrize("mode", ["a1111", "comfy", "plain"])
def test_each_tower_of_a_pair_reads_the_same_chunks_and_weights(pair: ClipPair, mode: str) -> None:
    both = PromptEncoder(pair, mode).encode([PROMPT, "apple"])
    alone = [PromptEncoder(tower, mode).encode([PROMPT, "apple"]) for tower in pair.towers]
    assert both.tokens is not None and both.tokens.shape[1] > 16
    assert torch.equal(both.tokens, torch.cat([each.tokens for each in alone], dim=-1))
    assert torch.equal(both.pooled, alone[1].pooled)
    assert PromptEncoder(pair, mode).report(PROMPT) == PromptEncoder(pair.towers[0], mode).report(PROMPT)


def test_an_empty_negative_prompt_is_zeros_only_as_a_negative(pair: ClipPair) -> None:
    reader = PromptEncoder(pair, zeros_for_empty=True)
    both = reader.encode(["", "blue"], negative=True)
    assert not both.tokens[0].any() and not both.pooled[0].any()
    assert torch.equal(both.tokens[1:], reader.encode(["blue"]).tokens)
    assert reader.encode([""]).tokens.any()


def test_an_embedding_has_vectors_for_both_towers(made, pair: ClipPair, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    vectors = {name: torch.randn(2, 16, generator=generator) for name in ("clip_g", "clip_l")}
    save_file(vectors, tmp_path / "ink.safetensors")
    both = load_embedding(tmp_path / "ink.safetensors", [16, 16])
    assert torch.equal(both.vectors, torch.cat([vectors["clip_l"], vectors["clip_g"]], dim=1))
    encoded = PromptEncoder(pair, embeddings={"ink": both}).encode(["a red ink apple"])
    for name, tower, tokens in zip(("clip_l", "clip_g"), pair.towers, encoded.tokens.split(16, dim=-1), strict=True):
        save_file({"x": vectors[name]}, tmp_path / "one.safetensors")
        own = load_embedding(tmp_path / "one.safetensors", 16)
        assert torch.equal(tokens, PromptEncoder(tower, embeddings={"ink": own}).encode(["a red ink apple"]).tokens)
    model = made("sdxl")[0]
    assert model.load_embedding(tmp_path / "ink.safetensors") == "ink"
    save_file({"clip_l": torch.zeros(1, 8), "clip_g": torch.zeros(1, 8)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is an embedding of width 8; this text tower has width 16"):
        model.load_embedding(tmp_path / "other.safetensors")
    save_file({"clip_l": torch.zeros(1, 16), "clip_g": torch.zeros(2, 16)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="has 1 and 2 vectors; both must be as many"):
        model.load_embedding(tmp_path / "other.safetensors")


def test_towers_that_read_other_tokens_are_no_pair(pair: ClipPair, tmp_path: Path, made) -> None:
    from stable_diffusion import write_tiny_tokenizer

    write_tiny_tokenizer(tmp_path / "tokenizer")
    first = pair.towers[0]
    tokenizer = ClipTokenizer.from_folder(tmp_path / "tokenizer")
    tokenizer.model_max_length = 12
    shorter = ClipText(tokenizer, first.model)
    with pytest.raises(ValueError, match="reads 14 tokens and the second 10"):
        ClipPair(first, shorter)
    other = ClipTokenizer.from_folder(tmp_path / "tokenizer")
    other.backend_tokenizer.add_tokens(["foxes"])
    with pytest.raises(ValueError, match="different vocabularies"):
        ClipPair(first, ClipText(other, first.model))


@pytest.mark.parametrize("name", ["sdxl", "refiner"])
def test_adapters_find_the_second_tower(made, name: str) -> None:
    model, _ = made(name)
    text = model.parts.text
    before, layer = text.encode(PROMPTS), text.towers[-1].model.encoder.layers[0].mlp.fc1
    delta = low_rank(tuple(layer.weight.shape), torch.Generator().manual_seed(0))
    model.loras.add({"text_encoder_2.text_model.encoder.layers.0.mlp.fc1": delta}, "ink")
    after = text.encode(PROMPTS)
    model.loras.unload("ink")
    assert torch.equal(after.tokens[..., :-16], before.tokens[..., :-16])  # of the first tower, if there is one
    assert not torch.allclose(after.pooled, before.pooled)
    assert torch.equal(text.encode(PROMPTS).tokens, before.tokens)


def test_both_towers_of_a_folder_are_read_for_a_training(tmp_path):
    folder = save(make_family("sdxl", tmp_path), tmp_path / "model")
    whole, alone = LatentDiffusion.from_pretrained(folder).parts.text, load_text(folder)
    for field in ("tokens", "pooled"):
        mine, theirs = (getattr(text.encode(["a red apple"]), field) for text in (alone, whole))
        assert torch.equal(mine, theirs), field
