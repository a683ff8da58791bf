"""Pictures that know their recipe, however they are saved."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldm import LatentDiffusion, Result
from ldm.generation.from_picture import recipe_in
from ldm.io.metadata.png import png_bytes
from ldm.io.metadata.texts import read_texts


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def result(model: LatentDiffusion) -> Result:
    return model(["an apple", "größer 🍎"], seed=7, num_inference_steps=2)


def test_a_picture_saved_by_pil_carries_its_recipe_as_the_command_lines_does(result: Result, tmp_path: Path) -> None:
    for image, recipe in zip(result.images, result.recipes, strict=True):
        image.save(tmp_path / "x.png")
        assert recipe_in(tmp_path / "x.png") == recipe
        assert read_texts(tmp_path / "x.png") == {"parameters": recipe.parameters(), "ldm": recipe.to_json()}
        plain = Image.fromarray(np.asarray(image))
        assert (tmp_path / "x.png").read_bytes() == png_bytes(plain, recipe.parameters(), recipe.to_json())
        assert {name: image.info[name] for name in ("parameters", "ldm")} == read_texts(tmp_path / "x.png")


def test_what_is_said_about_texts_holds_and_other_formats_are_as_pil_writes_them(
    result: Result, tmp_path: Path
) -> None:
    info, image = PngInfo(), result.images[0]
    info.add_text("mine", "only")
    image.save(tmp_path / "x.png", pnginfo=info)
    assert read_texts(tmp_path / "x.png") == {"mine": "only"}
    plain = Image.frombytes(image.mode, image.size, image.tobytes())
    for suffix in ("jpg", "webp", "gif", "bmp"):
        image.save(tmp_path / f"a.{suffix}")
        plain.save(tmp_path / f"b.{suffix}")
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_a_picture_survives_copies_and_pickles_and_a_changed_one_is_plain(result: Result, tmp_path: Path) -> None:
    image = result.images[0]
    for twin in (copy.deepcopy(image), pickle.loads(pickle.dumps(image))):
        twin.save(tmp_path / "x.png")
        assert recipe_in(tmp_path / "x.png") == result.recipes[0]
    image.resize((4, 4)).save(tmp_path / "small.png")
    assert read_texts(tmp_path / "small.png") == {}


def test_a_result_saves_all_its_pictures(model: LatentDiffusion, result: Result, tmp_path: Path) -> None:
    assert result.save(tmp_path / "new" / "x.png") == [tmp_path / "new" / "x-7.png", tmp_path / "new" / "x-8.png"]
    assert [recipe_in(tmp_path / "new" / f"x-{seed}.png") for seed in (7, 8)] == result.recipes
    one = model("an apple", seed=7, num_inference_steps=2)
    assert one.save(str(tmp_path / "one.png")) == [tmp_path / "one.png"]
    one.images[0].save(tmp_path / "pil.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "pil.png").read_bytes()
    shared = model(["a", "b"], generator=torch.Generator().manual_seed(3), num_inference_steps=2)
    assert [path.name for path in shared.save(tmp_path / "y.png")] == ["y-3.png", "y-3-2.png"]
    assert read_texts(tmp_path / "y-3.png") == {}  # no recipe repeats a generator


def test_a_result_refuses_what_has_no_place_for_a_recipe(
    model: LatentDiffusion, result: Result, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"x\.jpg.*use x\.png"):
        result.save(tmp_path / "x.jpg")
    with pytest.raises(ValueError, match="output_type='pil'"):
        model("a", seed=0, num_inference_steps=1, output_type="pt").save(tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_does_not_fit_on_the_disk_leaves_the_old_one(
    result: Result, tmp_path: Path, nearly_full_disk
) -> None:
    (tmp_path / "x-7.png").write_bytes(b"old")
    with nearly_full_disk(500), pytest.raises(OSError, match="x-7"):
        result.save(tmp_path / "x.png")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x-7.png", b"old")]
