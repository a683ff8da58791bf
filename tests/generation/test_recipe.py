"""Recipes inside PNGs: nothing is lost, nothing is guessed."""

import dataclasses
import json
from pathlib import Path

import pytest
from PIL import Image

from ldm.generation.from_picture import recipe_in
from ldm.generation.recipe import Recipe
from ldm.io.metadata.png import png_bytes
from ldm.io.metadata.texts import read_texts

RECIPE = Recipe(
    prompt='ein "Äpfelchen" 🍎,\nzweite Zeile',
    negative_prompt="",
    seed=2**63,
    num_inference_steps=25,
    guidance_scale=4.5,
    guidance_rescale=0.7,
    sampler="dpmpp_2m",
    schedule="karras",
    width=256,
    height=128,
    upscale=True,
    model="models/emoji",
    dtype="float32",
    device="cpu",
    version="0.1.0",
)


def png(image: Image.Image, recipe: Recipe) -> bytes:
    return png_bytes(image, recipe.parameters(), recipe.to_json())


def written(path: Path, text: str) -> Path:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("ldm", text)
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    return path


def test_recipe_survives_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(Image.new("RGB", (8, 8), "red"), RECIPE))
    assert recipe_in(path) == RECIPE
    assert Image.open(path).convert("RGB").getpixel((3, 3)) == (255, 0, 0)


def test_same_picture_and_recipe_are_the_same_bytes() -> None:
    image = Image.effect_noise((16, 16), 50).convert("RGB")
    assert png(image, RECIPE) == png(image.copy(), dataclasses.replace(RECIPE))
    assert png(image, RECIPE) != png(image, dataclasses.replace(RECIPE, seed=1))


def test_parameters_are_what_a1111_writes(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, negative_prompt="blue, dark")
    path = tmp_path / "x.png"
    path.write_bytes(png(Image.new("RGB", (8, 8)), recipe))
    *prompt, negative, details = read_texts(path)["parameters"].splitlines()
    assert "\n".join(prompt) == recipe.prompt
    assert negative == "Negative prompt: blue, dark"
    assert details == (
        "Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 4.5, CFG rescale: 0.7, "
        f"Seed: {2**63}, Size: 256x128, Model: emoji, Version: ldm 0.1.0"
    )
    assert "Negative prompt" not in RECIPE.parameters()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: "{half", "its recipe is damaged"),
        (lambda r: "[]", "is list, not an object"),
        (lambda r: json.dumps({k: v for k, v in r.items() if k != "seed"}), "lacks 'seed'"),
        (lambda r: json.dumps(r | {"style": 1}), "unknown field 'style'; a newer version"),
        (lambda r: json.dumps(r | {"seed": "1"}), "seed='1'"),
        (lambda r: json.dumps(r | {"upscale": 1}), "upscale=1"),
    ],
)
def test_damaged_recipes_name_file_and_field(tmp_path: Path, change, message: str) -> None:
    path = written(tmp_path / "x.png", change(dataclasses.asdict(RECIPE)))
    with pytest.raises(ValueError, match=message) as error:
        recipe_in(path)
    assert str(path) in str(error.value)


def test_whole_numbers_are_good_scales(tmp_path: Path) -> None:
    path = written(tmp_path / "x.png", json.dumps(dataclasses.asdict(RECIPE) | {"guidance_scale": 4}))
    assert recipe_in(path).guidance_scale == 4
