"""Editing by words: equal prompts give the input's bytes, recipes repeat, and what is kept keeps its bytes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from task_models import PROCESSES, Counting, picture, under

from ldm import LatentDiffusion
from ldm.tasks.edit_by_words import EditByWords
from ldm.tasks.picture import Picture
from ldm.tasks.settings import EDIT_METHODS

SETTINGS = {"seed": 3, "num_inference_steps": 4, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_folder)


def task(pixels: np.ndarray | Path, **settings: object) -> EditByWords:
    return EditByWords(picture=Picture.of(pixels), **{"source": "apple", **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("process", [*PROCESSES, "its own, which ends before alpha = 1"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_equal_prompts_give_the_inputs_bytes(model, process: str, channels: int, monkeypatch) -> None:
    own, pixels = under(model, process) if process in PROCESSES else model, picture(21, 37, channels)
    monkeypatch.setattr(type(own.vae.decoder), "forward", None)  # the bytes do not come out of the autoencoder
    edited = own("apple", task=task(pixels, strength=1.0, average=2), **SETTINGS).images[0]
    assert np.array_equal(np.asarray(edited).reshape(pixels.shape), pixels)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("method", EDIT_METHODS)
def test_other_prompts_change_the_picture(model, process: str, method: str) -> None:
    own = under(model, process)
    edited = own(["dark sea", "apple"], task=task(picture(), method=method), **SETTINGS)
    assert not np.array_equal(np.asarray(edited.images[0]), picture())
    alone = own("dark sea", task=task(picture(), method=method), **SETTINGS).images[0]
    difference = np.abs(np.asarray(edited.images[0]).astype(int) - np.asarray(alone))
    assert difference.max() <= 1  # a picture depends on no other in its batch, but for rounding


@pytest.mark.parametrize("process", PROCESSES)
def test_ddpm_with_equal_prompts_is_what_the_autoencoder_makes_of_the_picture(model, process: str) -> None:
    own = under(model, process)
    latents = own("apple", task=task(picture(), method="ddpm"), output_type="latent", **SETTINGS).images
    z = own.encode(torch.from_numpy(picture()).permute(2, 0, 1)[None].float() / 255)
    # Rounding grows where alpha is small (epsilon) or sigma is large (EDM).
    torch.testing.assert_close(latents, z, atol=1e-3, rtol=0)


def test_strength_decides_how_many_calls_of_what_and_steps_are_as_requested(model, monkeypatch) -> None:
    counting = Counting(model.unet, monkeypatch)
    options = {**SETTINGS, "guidance_scale": 1.0}
    for method, calls in (("difference", 8), ("ddpm", 8), ("ddim", 4 + 4 * 3)):
        counting.calls = 0
        model("dark sea", task=task(picture(), method=method), **options)
        assert counting.calls == calls, method


def test_a_local_edit_keeps_every_byte_elsewhere(model) -> None:
    pixels = picture(48, 48, 4)
    everywhere, local = (
        np.asarray(model("dark sea", task=task(pixels, local=share), **SETTINGS).images[0]) for share in (1.0, 0.3)
    )
    kept = (local == pixels).all(-1)
    assert 0.2 < kept.mean() < 1 and (everywhere == pixels).all(-1).mean() < 0.1


def test_a_recipe_repeats_the_edit_while_the_picture_is_there(model, tmp_path: Path) -> None:
    file = tmp_path / "in.png"
    Image.fromarray(picture(33, 33)).save(file)
    drawn = model("dark sea", task=task(file), **SETTINGS)
    (recipe,) = drawn.recipes
    assert recipe.task["source"] == "apple" and recipe.task["picture"] == str(file)
    assert model.steps(recipe.request()).result.images[0].tobytes() == drawn.images[0].tobytes()
    Image.fromarray(picture(33, 33, seed=1)).save(file)
    with pytest.raises(OSError, match="is not the picture of this recipe any more"):
        model.steps(recipe.request())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": " "}, "source is empty"),
        ({"method": "magic"}, "unknown method 'magic'"),
        ({"strength": 0.0}, "strength=0.0 is not possible"),
        ({"average": 0}, "average=0 is not possible"),
        ({"local": 0.5, "method": "ddim"}, "local=0.5 needs method='difference'"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(picture(), **settings)


def test_another_form_of_prompts_is_refused(model) -> None:
    with pytest.raises(ValueError, match="needs one form and no LoRA tags"):
        model("dark sea", task=task(picture(), source="apple <lora:ink:1>"), **SETTINGS)
