"""What is said before drawing: each line for what it is about, and none for a request that the model can follow."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ldm import LatentDiffusion, Request
from ldm.generation import cautions as module
from ldm.generation.cautions import cautions

WORDS = frozenset(["a", "an", "the", "red", "apple", "fox", "style", "on", "blue", "background", "noto"])


@pytest.fixture
def model(tiny_folder: Path) -> LatentDiffusion:
    opened = LatentDiffusion.from_pretrained(tiny_folder)
    return LatentDiffusion(replace(opened.parts, words=WORDS), name="tiny")


def test_an_ordinary_request_is_drawn_without_a_word(model: LatentDiffusion) -> None:
    assert cautions(model, Request(prompt="(a red:1.2) fox AND [the apple:a fox:0.4], noto style BREAK apples")) == []
    assert cautions(LatentDiffusion(replace(model.parts, words=None)), Request(prompt="a samurai")) == []


def test_words_of_no_caption_are_named(model: LatentDiffusion) -> None:
    (line,) = cautions(model, Request(prompt=("a samurai fox", "a red Pikachu, noto style")))
    assert "tiny" in line and "'pikachu', 'samurai'" in line and "\n" not in line
    (line,) = cautions(model, Request(prompt="one two three four five six seven"))
    assert "and 2 more" in line
    (line,) = cautions(model, Request(prompt="a fox 🦊, noto style ❤️"))
    assert "the words '❤', '🦊';" in line
    model.embeddings["spark"] = None  # type: ignore[assignment]
    assert cautions(model, Request(prompt="a spark fox <lora:ink:0.5> {red|blue} apple")) == []


@pytest.mark.parametrize(("scale", "said"), [(1, False), (1.25, True), (2, True), (0.5, True)])
def test_sizes_far_from_the_trained_one_are_named(model: LatentDiffusion, scale: float, said: bool) -> None:
    own = model.parts.defaults
    request = Request(prompt="a fox", width=int(own.width * scale), height=int(own.height * scale))
    lines = cautions(model, request)
    assert bool(lines) == said and all(f"{own.width} x {own.height}" in line for line in lines)


def test_wildcards_without_a_folder_and_tags_in_edits_are_named(model: LatentDiffusion, tmp_path: Path) -> None:
    (line,) = cautions(model, Request(prompt="a fox", negative_prompt="__colour__"))
    assert "__colour__ is read as text" in line and "--wildcards" in line
    assert cautions(model, Request(prompt="a __colour__ fox", wildcards=str(tmp_path))) == []
    (line,) = cautions(model, Request(prompt="[a fox<lora:ink:1>:a red apple:0.5]"))
    assert "holds for the whole picture" in line


def test_an_emulated_number_format_is_named(model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    model.parts.unet.to(torch.bfloat16)
    for fastest, said in ((torch.float32, True), (torch.bfloat16, False)):
        monkeypatch.setattr(module, "best_dtype", lambda device, fastest=fastest: fastest)
        assert bool(cautions(model, Request(prompt="a fox"))) == said


def test_words_are_kept_with_the_folder(model: LatentDiffusion, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    assert LatentDiffusion.from_pretrained(tmp_path / "model").parts.words == WORDS
    (tmp_path / "model" / "words.txt").unlink()
    assert LatentDiffusion.from_pretrained(tmp_path / "model").parts.words is None


def test_alternatives_and_wildcards_of_the_negative_prompt_are_chosen_by_the_seed(
    model: LatentDiffusion, tmp_path: Path
) -> None:
    (tmp_path / "colour.txt").write_text("red\nblue\n")
    options = {"num_inference_steps": 1, "wildcards": str(tmp_path), "num_images_per_prompt": 8}
    result = model("a fox", negative_prompt="{apple|fox} __colour__", seed=0, **options)
    chosen = {recipe.negative_prompt for recipe in result.recipes}
    assert len(chosen) > 1 and chosen <= {
        f"{thing} {colour}" for thing in ("apple", "fox") for colour in ("red", "blue")
    }
    one = result.recipes[5]
    again = model("a fox", negative_prompt=one.negative_prompt, seed=one.seed, num_inference_steps=1)
    assert again.images[0].tobytes() == result.images[5].tobytes()
