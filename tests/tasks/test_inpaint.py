"""Inpainting: bytes outside the mask, masks of all kinds, the right distribution inside, diffusers' models."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from families import make_family
from gaussian import Correlated, Draws
from PIL import Image
from task_models import PROCESSES, Counting, picture, seeded, take_the_mean, under
from torch import Tensor

from ldm import LatentDiffusion
from ldm.denoiser import Prediction
from ldm.generation.request import Request
from ldm.process import Process
from ldm.samplers import SAMPLERS
from ldm.schedules import make_grid
from ldm.tasks.img2img import Img2Img
from ldm.tasks.inpaint import ETA, Inpaint, _hold
from ldm.tasks.picture import Picture
from ldm.tasks.walks import resampled
from ldm.training.objectives.masks import random_mask

OWN = ("strength", "steps_scale", "soft", "crop", "feather", "resample", "resample_jump")


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_folder)


def fill(model: LatentDiffusion, given: Any, mask: Any, output_type: str = "pil", **settings: Any):
    own = {key: settings.pop(key) for key in OWN if key in settings}
    task = Inpaint(picture=Picture.of(given), mask=Picture.of(mask), **own)
    seed = None if "generator" in settings else 3
    knobs = {"seed": seed, "num_inference_steps": 4, "guidance_scale": 3.0, **settings}
    return model("apple", task=task, output_type=output_type, **knobs)


def pixels_of(result: Any, like: np.ndarray) -> np.ndarray:
    return np.asarray(result.images[0]).reshape(like.shape)


def box(height: int = 32, width: int = 32, value: float = 1.0) -> np.ndarray:
    """A rectangle off the middle, on cells of 4 pixels."""
    mask = np.zeros((height, width), np.float32)
    mask[8:20, 4:24] = value
    return mask


def masks(count: int, height: int, width: int, first: int = 0) -> list[np.ndarray]:
    """Boxes, strokes, one-pixel lines and grey noise."""
    made = []
    for i in range(first, first + count):
        generator = torch.Generator().manual_seed(i)
        mask = random_mask(height, width, generator)[0]
        if i % 4 == 1:
            mask = torch.zeros(height, width)
            mask[i % height, :] = 1
            mask[:, (3 * i) % width] = 1
        if i % 4 == 2:
            mask = (torch.rand(height, width, generator=generator) * 2 - 1).clamp(min=0)
        made.append(mask.numpy())
    return made


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_bytes_outside_a_thousand_masks_are_the_inputs(channels: int) -> None:  # 250 for each number of channels
    pixels = picture(19, 27, channels)
    generator = torch.Generator().manual_seed(0)
    for i, mask in enumerate(masks(250, 19, 27, 250 * channels)):
        task = Inpaint(picture=Picture.of(pixels), mask=Picture.of(mask), feather=i % 3, soft=i % 5 == 0)
        drawn = torch.rand(3, 19, 27, generator=generator)
        made = np.asarray(task._composed(task.picture, drawn, task.change)).reshape(pixels.shape)
        outside = task.change.numpy() == 0
        assert np.array_equal(made[outside], pixels[outside])


@pytest.mark.parametrize(
    "settings", [{}, {"crop": 3}, {"soft": True, "strength": 0.7}, {"feather": 2, "resample": 2}], ids=str
)
def test_bytes_outside_are_the_inputs_through_the_whole_model(model, settings: dict) -> None:
    for channels, mask in enumerate(masks(4, 21, 35), 1):
        pixels = picture(21, 35, channels)
        made = pixels_of(fill(model, pixels, mask, num_inference_steps=2, **settings), pixels)
        inside = (mask * 255).round() > 0
        assert np.array_equal(made[~inside], pixels[~inside])
        assert not inside.any() or (made[inside] != pixels[inside]).any()


def test_twenty_edits_in_a_row_leave_untouched_bytes_untouched(model) -> None:
    first = pixels = picture(21, 35, 4)
    touched = np.zeros((21, 35), bool)
    for i, mask in enumerate(masks(20, 21, 35)):
        mask = mask * (np.arange(35) < 25)
        pixels = pixels_of(fill(model, pixels, mask, num_inference_steps=1, seed=i), pixels)
        touched |= (mask * 255).round() > 0
    assert np.array_equal(pixels[~touched], first[~touched]) and not touched.all()


def test_a_full_mask_is_text_to_image_and_image_to_image_to_the_bit(model) -> None:
    pixels, white = picture(), np.full((32, 32), 255, np.uint8)
    knobs: dict[str, Any] = {"seed": 3, "num_inference_steps": 4, "guidance_scale": 3.0}
    assert fill(model, pixels, white).images[0].tobytes() == model("apple", **knobs).images[0].tobytes()
    changed = model("apple", task=Img2Img(picture=Picture.of(pixels), strength=0.6), **knobs)
    assert fill(model, pixels, white, strength=0.6).images[0].tobytes() == changed.images[0].tobytes()


def test_an_empty_mask_gives_the_input_without_a_network_and_says_so(model, monkeypatch, caplog) -> None:
    monkeypatch.setattr(type(model.unet), "forward", None)
    pixels = picture(13, 31, 4)
    for settings in ({}, {"crop": 4}, {"soft": True}):
        made = fill(model, pixels, np.zeros((13, 31), np.uint8), **settings)
        assert np.array_equal(pixels_of(made, pixels), pixels)
    assert np.array_equal(pixels_of(fill(model, pixels, np.ones((13, 31)), strength=0.0), pixels), pixels)
    assert "the mask is black all over, so the picture comes back as it is" in caplog.text


def test_a_mask_of_another_size_is_scaled_and_said(model, caplog) -> None:
    mask = np.zeros((64, 64), np.float32)
    mask[32:, :32] = 1
    pixels = picture()
    made = pixels_of(fill(model, pixels, mask), pixels)
    assert "the mask has 64 x 64 pixels; it is scaled to 32 x 32" in caplog.text
    assert np.array_equal(made[:15], pixels[:15]) and np.array_equal(made[:, 17:], pixels[:, 17:])
    assert (made[17:, :15] != pixels[17:, :15]).mean() > 0.9


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("share", [51, 107, 255])
def test_a_constant_soft_mask_is_image_to_image_at_that_strength(model, process: str, share: int) -> None:
    own, pixels = under(model, process), picture()
    soft = fill(own, pixels, np.full((32, 32), share, np.uint8), soft=True, strength=share / 255)
    task = Img2Img(picture=Picture.of(pixels), strength=np.float32(share / 255).item())
    changed = own("apple", task=task, seed=3, num_inference_steps=4, guidance_scale=3.0)
    if share == 255:  # whose first level is pure noise, of every process
        changed = own("apple", seed=3, num_inference_steps=4, guidance_scale=3.0)
    assert soft.images[0].tobytes() == changed.images[0].tobytes()


def test_a_soft_mask_of_black_and_white_is_a_plain_one(model) -> None:
    plain, soft = (fill(model, picture(), box(), soft=soft) for soft in (False, True))
    assert plain.images[0].tobytes() == soft.images[0].tobytes()


def test_a_grey_cell_is_free_once_no_more_is_left_than_it_may_change(model) -> None:
    task = Inpaint(
        picture=Picture.of(picture()),
        mask=Picture.of(np.tile(np.linspace(0, 1, 32, dtype=np.float32), (32, 1))),
        soft=True,
    )
    from ldm.generation.request import Request
    from ldm.generation.resolve import resolve_request

    own = under(model, "flow")
    request = task.fit(own, Request(prompt="x", num_inference_steps=10, schedule="trailing", seed=0))
    with torch.no_grad():
        setup = task.set_up(own, resolve_request(own, request))
    seen = []

    class Seen:
        process = own.parts.process

        def __call__(self, x: Tensor, t: float) -> Prediction:
            return Prediction(torch.full_like(x, 9.0), x)

    assert setup.wrap is not None and setup.grid is not None
    held = setup.wrap(Seen(), None)  # type: ignore[arg-type]
    for t in setup.grid[:-1].tolist():
        free = held(torch.zeros(1, 4, 8, 8), t).x0[0, 0, 0] == 9.0
        seen.append(free.count_nonzero().item())
        brightest = [min(1.0, (4 * min(cell + 1, 7) + 3) / 31) for cell in range(8)]  # of a cell and its neighbours
        assert free.tolist() == [t <= round(255 * bright) / 255 + 1e-6 for bright in brightest]
    assert seen[0] >= 1 and seen == sorted(seen) and seen[-1] == 8


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_fills_a_mask(model, process: str, sampler: str) -> None:
    pixels = picture()
    made = pixels_of(fill(under(model, process), pixels, box(), sampler=sampler), pixels)
    assert (made[9:19, 5:23] != pixels[9:19, 5:23]).any() and np.array_equal(made[20:], pixels[20:])


@pytest.mark.parametrize("jump", [0, 1, 5])
@pytest.mark.parametrize("process", [process for process, _ in PROCESSES.values()], ids=PROCESSES)
def test_what_is_filled_in_has_the_distribution_of_the_data(process: Process, jump: int) -> None:
    generator = torch.Generator().manual_seed(0)
    denoise, held = Correlated(process, 16), torch.zeros(1, 16)
    held[0, [0, 1, 2, 3, 8, 9, 10, 15]] = 1
    known, hidden = held[0] == 1, held[0] == 0
    covariance = denoise.covariance
    truth = torch.linalg.cholesky(covariance) @ torch.randn(16, generator=generator).double()
    across = covariance[hidden][:, known] @ torch.linalg.inv(covariance[known][:, known])
    mean = across @ truth[known]
    variance = (covariance[hidden][:, hidden] - across @ covariance[known][:, hidden]).diag()

    def noise() -> Tensor:
        return torch.randn(4000, 1, 1, 16, generator=generator)

    grid = make_grid("karras" if process.terminal == 0.0 and process.start > 1 else "trailing", process, 50)
    wrapped = _hold(truth.float().view(1, 1, 1, 16), lambda t: held == 1)(denoise, None)  # type: ignore[arg-type]
    x = process.initial(noise(), grid[0])
    sampler = partial(SAMPLERS["ddim"], eta=ETA)
    *_, step = (resampled(sampler, 3, jump) if jump else sampler)(wrapped, x, grid, Draws(noise))
    filled = step.x.double().flatten(1)
    torch.testing.assert_close(filled[:, known], truth[known].expand(4000, -1), atol=1e-5, rtol=0)
    bias = ((filled[:, hidden].mean(0) - mean) / variance.sqrt()).abs().mean().item()
    spread = (filled[:, hidden].var(0) / variance).mean().item()
    # Taken again and again, steps come nearer to the mean than the data are.
    assert bias <= 0.15 and (0.75 if jump else 0.9) <= spread <= 1.3, (bias, spread)


def test_steps_may_be_taken_several_times(model, monkeypatch) -> None:
    own, pixels = under(model, "discrete"), picture()
    counting = Counting(own.unet, monkeypatch)
    made = [pixels_of(fill(own, pixels, box(), resample=r, guidance_scale=1.0), pixels) for r in (1, 3)]
    assert counting.calls == 4 + 3 * 3 + 1 and (made[0] != made[1]).any()
    fill(own, pixels, box(), resample=3, resample_jump=3, guidance_scale=1.0)
    assert counting.calls == 14 + 3 * 3 + 1


def test_a_crop_is_worked_at_in_the_models_size(model, monkeypatch) -> None:
    seen, encode = [], LatentDiffusion.encode
    monkeypatch.setattr(
        LatentDiffusion, "encode", lambda self, x, *more: (seen.append(tuple(x.shape)), encode(self, x, *more))[1]
    )
    pixels, mask = picture(100, 140), np.zeros((100, 140), np.uint8)
    mask[40:48, 100:116] = 255
    made = pixels_of(fill(model, pixels, mask, crop=8), pixels)
    assert seen == [(1, 3, 32, 32)]
    assert np.array_equal(made[mask == 0], pixels[mask == 0]) and (made[mask > 0] != pixels[mask > 0]).any()
    fill(model, pixels, mask, crop=8, width=64)
    assert seen[-1] == (1, 3, 32, 64)


def test_a_recipe_repeats_it(model, tmp_path: Path) -> None:
    for name, pixels in (("in.png", picture(40, 50, 4)), ("mask.png", (box(40, 50) * 255).astype(np.uint8))):
        Image.fromarray(pixels).save(tmp_path / name)
    for settings in ({"crop": 5}, {"soft": True, "strength": 0.8}):
        first = fill(model, tmp_path / "in.png", tmp_path / "mask.png", **settings)
        again = model.steps(first.recipes[0].request()).result
        assert again.images[0].tobytes() == first.images[0].tobytes() and again.recipes == first.recipes
        assert first.recipes[0].sampler == "ddim" and first.recipes[0].sampler_options == {"eta": ETA}


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("family", ["inpainting", "sdxl-inpainting"])
def test_a_model_made_for_it_draws_what_diffusers_draws(tmp_path: Path, strength: float, family: str) -> None:
    pipeline = make_family(family, tmp_path)
    take_the_mean(pipeline.vae)
    model = LatentDiffusion.from_diffusers(pipeline)
    pixels, mask = picture(), box()
    knobs: dict[str, Any] = {"num_inference_steps": 6, "guidance_scale": 3.0}
    theirs = pipeline(
        "apple",
        image=Picture.of(pixels).rgb[None],
        mask_image=torch.from_numpy(mask)[None, None],
        strength=strength,
        height=32,
        width=32,
        generator=seeded(0),
        output_type="latent",
        **knobs,
    ).images
    generator = seeded(1 if strength < 1 else 0)
    ours = fill(model, pixels, mask, "latent", strength=strength, steps_scale=True, generator=generator, **knobs).images
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_a_model_made_for_it_sees_strokes_that_diffusers_loses(tmp_path: Path) -> None:
    pipeline = make_family("inpainting", tmp_path)
    assert isinstance(pipeline, StableDiffusionInpaintPipeline)
    model, thin = LatentDiffusion.from_diffusers(pipeline), np.zeros((32, 32), np.float32)
    thin[13, :] = 1  # nearest sampling looks at rows 0, 4, 8, 12, ...
    theirs = torch.nn.functional.interpolate(torch.from_numpy(thin)[None, None], (8, 8))
    task = Inpaint(picture=Picture.of(picture()), mask=Picture.of(thin))
    canvas = task.canvas(model, Request(prompt="x"))
    with torch.no_grad():
        conditions = task._conditions(model, canvas, task.change)
    assert conditions is not None and conditions.concat is not None
    assert theirs.sum() == 0 and conditions.concat[0, 0].sum() == 8


def test_a_mask_is_needed_and_numbers_are_in_their_ranges() -> None:
    with pytest.raises(ValueError, match="there is no mask; give --mask"):
        Inpaint(picture=Picture.of(picture()))
    with pytest.raises(ValueError, match="feather=-1 is not possible; use 0 to 1,024"):
        Inpaint(picture=Picture.of(picture()), mask=Picture.of(box()), feather=-1)
