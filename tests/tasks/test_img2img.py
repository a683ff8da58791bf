"""Image to image: strength as a share of the schedule, to the step and to the byte."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from families import make_family
from gaussian import GaussianDenoiser, last, no_noise, normal
from PIL import Image
from task_models import PROCESSES, Counting, picture, seeded, take_the_mean, under
from torch import Tensor

from ldm import LatentDiffusion
from ldm.generation.request import Request
from ldm.generation.sampling import Sampling
from ldm.samplers import SAMPLERS
from ldm.schedules import SCHEDULES, make_grid
from ldm.tasks.img2img import Img2Img
from ldm.tasks.picture import Picture
from ldm.tasks.strength import part_of_grid

STRENGTHS = (0.01, 0.29, 0.5, 0.58, 0.999, 1.0)


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_folder)


def change(model: LatentDiffusion, given: Any, output_type: str = "pil", prompt: str = "apple", **settings: Any):
    own = {key: settings.pop(key) for key in ("strength", "steps_scale", "depth") if key in settings}
    task = Img2Img(picture=Picture.of(given), **own)
    knobs = {
        "seed": None if "generator" in settings else 3,
        "num_inference_steps": 5,
        "guidance_scale": 3.0,
        **settings,
    }
    return model(prompt, task=task, output_type=output_type, **knobs)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("settings", [{"strength": 0.0}, {"strength": 0.1, "steps_scale": True}], ids=str)
def test_strength_0_is_the_inputs_pixels_and_runs_no_network(model, channels, settings, monkeypatch, tmp_path) -> None:
    for network in (model.unet, model.vae.encoder, model.vae.decoder, model.text_encoder):
        monkeypatch.setattr(type(network), "forward", None)
    pixels = picture(13, 31, channels)
    file = tmp_path / "in.png"
    Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels).save(file)
    drawn = change(model, file, **settings)
    assert np.array_equal(np.asarray(drawn.images[0]).reshape(pixels.shape), pixels)
    (recipe,) = drawn.recipes
    assert recipe.task["strength"] == settings["strength"] and (recipe.width, recipe.height) == (31, 13)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_strength_1_of_a_zero_snr_model_is_text_to_image_to_the_bit(model, sampler: str) -> None:
    own = under(model, "zero_snr")
    knobs = {"seed": 3, "num_inference_steps": 5, "guidance_scale": 3.0, "sampler": sampler}
    plain = own("apple", **knobs).images[0]
    changed = change(own, picture(), strength=1.0, sampler=sampler).images[0]
    assert plain.tobytes() == changed.tobytes()


def test_strength_1_of_another_model_says_what_still_shows(model, caplog) -> None:
    change(model, picture(), strength=1.0)
    assert "strength 1 begins at this model's own top level, where 0." in caplog.text


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("strength", STRENGTHS)
def test_as_many_steps_run_as_were_requested(model, process: str, strength: float, monkeypatch) -> None:
    own = under(model, process)
    counting = Counting(own.unet, monkeypatch)
    change(own, picture(), strength=strength, num_inference_steps=7, sampler="ddim", guidance_scale=1.0)
    assert counting.calls == 7


@pytest.mark.parametrize("process", [process for process, _ in PROCESSES.values()], ids=PROCESSES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_start_level_is_in_the_grid_exactly(process, schedule: str) -> None:
    sampling = Sampling("ddim", schedule, {}, {}, "ddim")
    whole = make_grid(schedule, process, 20)
    before = whole[0].item() + 1e-9
    for strength in (1.0, 0.98, 0.5, 0.37, 0.29, 0.05, 0.013, 0.001):
        part = part_of_grid(sampling, process, whole, strength)
        assert len(part.times) == len(part.left) == 21
        assert (part.times.diff() < 0).all() and part.times[-1] == process.terminal
        assert part.times[0] <= before  # less strength, less noise
        assert part.left[0] == strength and part.left[-1] == 0 and (part.left.diff() < 0).all()
        before = part.times[0].item()
        for t, left in zip(part.times.tolist(), part.left.tolist(), strict=True):
            assert part.left_at(t) == left
        middle = (part.times[3] + part.times[4]).item() / 2
        assert part.left[4] < part.left_at(middle) < part.left[3]
    if schedule == "trailing":  # even in time, so that half of it is the middle
        assert part_of_grid(sampling, process, whole, 0.5).times[0] == pytest.approx(
            make_grid("trailing", process, 40)[20].item()
        )


def test_written_times_have_a_part_too(model) -> None:
    drawn = change(
        model,
        picture(),
        strength=0.4,
        num_inference_steps=None,
        schedule="timesteps",
        schedule_options={"values": [900, 600, 300]},
    )
    assert len(drawn.images) == 1


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("process", PROCESSES)
def test_every_sampler_under_every_process_changes_a_picture(model, process: str, sampler: str) -> None:
    first, second = (change(under(model, process), picture(), strength=s, sampler=sampler) for s in (0.3, 0.9))
    assert first.images[0].tobytes() != second.images[0].tobytes()


@pytest.mark.parametrize("process", [process for process, _ in PROCESSES.values()], ids=PROCESSES)
def test_the_picture_is_left_behind_steadily(process) -> None:
    denoise, z, noise = (
        GaussianDenoiser(process),
        normal(64, dtype=torch.float64),
        normal(64, seed=1, dtype=torch.float64),
    )
    sampling, errors = Sampling("ddim", "trailing", {}, {}, "ddim"), []
    for k in range(1, 21):
        grid = part_of_grid(sampling, process, make_grid("trailing", process, 20), k / 20).times
        changed = last(SAMPLERS["ddim"](denoise, process.add_noise(z, noise, grid[0]), grid, no_noise))
        errors.append((changed - z).square().mean().item())
    assert errors == sorted(errors)


@pytest.mark.parametrize("size", [(1, 1), (7, 45), (40, 32)], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_size_mode_and_alpha_are_the_inputs(model, size: tuple[int, int], channels: int) -> None:
    pixels = picture(*size, channels)
    (image,) = change(model, pixels, strength=0.5).images
    made = np.asarray(image).reshape(pixels.shape)
    assert image.size == size[::-1] and (made != pixels).any()
    if channels == 4:
        assert np.array_equal(made[..., 3], pixels[..., 3])


def test_another_size_scales_the_picture(model) -> None:
    assert change(model, picture(20, 40), width=64).images[0].size == (64, 32)
    assert change(model, picture(20, 40), width=64, height=64, strength=0.0).images[0].size == (64, 64)
    with pytest.raises(ValueError, match="width=50 is neither the picture's own 40 nor a multiple of 8; use 56"):
        change(model, picture(20, 40), width=50, height=64)


def test_a_picture_of_a_batch_is_the_one_of_its_seed(model) -> None:
    both = change(model, picture(), num_images_per_prompt=2, strength=0.6).images
    alone = change(model, picture(), seed=4, strength=0.6).images
    assert np.abs(np.asarray(both[1]).astype(int) - np.asarray(alone[0])).max() <= 1
    assert both[0].tobytes() != both[1].tobytes()


@pytest.mark.parametrize("strength", [0.25, 0.5, 0.8, 1.0])
def test_with_scaled_steps_it_draws_what_diffusers_draws(model, tiny_folder: Path, strength: float) -> None:
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(tiny_folder)
    pipeline.set_progress_bar_config(disable=True)
    pixels = picture()
    with torch.no_grad():
        z = model.encode(Picture.of(pixels).rgb[None])
    knobs: dict[str, Any] = {"num_inference_steps": 8, "guidance_scale": 3.0}
    theirs = pipeline(
        "apple", z, strength, generator=torch.Generator().manual_seed(3), output_type="latent", **knobs
    ).images
    ours = change(model, pixels, "latent", strength=strength, steps_scale=True, **knobs).images
    torch.testing.assert_close(ours * 1.0, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_a_depth_model_draws_what_diffusers_draws(tmp_path: Path, strength: float) -> None:
    pipeline = make_family("depth", tmp_path)
    take_the_mean(pipeline.vae)
    model = LatentDiffusion.from_diffusers(pipeline)
    pixels, depth = picture(), np.random.default_rng(1).random((32, 32), np.float32)
    depth[:8] = 0.25
    eight = (torch.from_numpy(depth)[None] * 255).round() / 255
    knobs: dict[str, Any] = {"num_inference_steps": 5, "guidance_scale": 3.0}
    theirs: Tensor = pipeline(
        "apple",
        Picture.of(pixels).rgb[None],
        eight,
        strength=strength,
        generator=seeded(0),
        output_type="latent",
        **knobs,
    ).images
    ours = change(
        model,
        pixels,
        "latent",
        strength=strength,
        steps_scale=True,
        depth=Picture.of(depth),
        generator=seeded(1),
        **knobs,
    ).images
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="this model is for depth and needs the map of the picture: --depth MAP"):
        change(model, pixels)


def test_a_recipe_repeats_the_picture_while_its_input_is_there(model, tmp_path: Path) -> None:
    file = tmp_path / "in.png"
    Image.fromarray(picture(20, 30)).save(file)
    first = change(model, str(file), strength=0.7)
    (recipe,) = first.recipes
    assert recipe.task["picture"] == str(file) and recipe.task["picture_sha256"] == Picture.of(file).sha256
    assert model.steps(recipe.request()).result.images[0].tobytes() == first.images[0].tobytes()
    Image.fromarray(picture(20, 30, seed=1)).save(file)
    with pytest.raises(OSError, match=r"in\.png is not the picture of this recipe any more"):
        model.steps(recipe.request())
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"in\.png does not exist"):
        model.steps(recipe.request())
    assert change(model, picture(), strength=0.7).recipes == []  # which no file could repeat


@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_an_impossible_strength_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match=r"strength=.* is not possible; use 0 to 1"):
        Img2Img(picture=Picture.of(picture()), strength=strength)


def test_other_models_say_which_command_serves_them(tmp_path: Path) -> None:
    model = LatentDiffusion.from_diffusers(make_family("inpainting", tmp_path))
    with pytest.raises(
        ValueError, match=r"is for inpainting and needs a picture: use ldm inpaint IMAGE PROMPT --mask MASK"
    ):
        change(model, picture())
    with pytest.raises(ValueError, match=r"this model is for inpainting .*ldm inpaint IMAGE PROMPT"):
        next(model.steps(Request(prompt="x")))
