"""Larger pictures: two passes, enlarging with any model, and models for upscaling."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from families import make_family, save
from PIL import Image
from task_models import Counting, picture
from torch import Tensor

from ldm import LatentDiffusion
from ldm.denoiser import Prediction
from ldm.generation.request import Request
from ldm.generation.resolve import resolve_request
from ldm.guidance.residual import SkipResidual
from ldm.process import DiscreteVP
from ldm.tasks.hires import Hires
from ldm.tasks.picture import Picture
from ldm.tasks.upscale import Upscale

KNOBS: dict[str, Any] = {"seed": 3, "num_inference_steps": 4, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """diffusers' x4 upscaler, tiny."""
    made = make_family("upscaling", tmp_path_factory.mktemp("text"))
    made.scheduler = DDIMScheduler.from_config(made.scheduler.config)
    return made


@pytest.fixture(scope="module")
def upscaler(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(save(pipeline, tmp_path_factory.mktemp("upscaler")))


def upscale(model: LatentDiffusion, given: Any, output_type: str = "pil", **settings: Any):
    own = {key: settings.pop(key) for key in tuple(settings) if key in Upscale.__dataclass_fields__}
    knobs = KNOBS if "generator" not in settings else {**KNOBS, "seed": None}
    return model("apple", task=Upscale(picture=Picture.of(given), **own), output_type=output_type, **knobs, **settings)


def test_the_upscaler_gives_what_diffusers_pipeline_gives(upscaler: LatentDiffusion, pipeline: Any) -> None:
    """Both draw the picture's noise from a generator first, then that of the latents."""
    pixels = picture(8, 16)
    small = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    pipeline.set_progress_bar_config(disable=True)
    wanted = pipeline(
        "apple",
        small,
        num_inference_steps=4,
        guidance_scale=3.0,
        noise_level=9,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
    ).images
    generator = torch.Generator().manual_seed(3)
    made = upscale(upscaler, pixels, "np", noise_level=9, generator=generator, tile_size=64).images
    assert np.abs(made - wanted.permute(0, 2, 3, 1).numpy()).max() <= 0.5 / 255 + 1e-4  # bytes lie between


def test_the_noise_of_the_picture_is_not_that_of_the_latents(upscaler: LatentDiffusion) -> None:
    seen: list[Tensor] = []
    hook = upscaler.unet.register_forward_pre_hook(
        lambda _, inputs: seen.append(torch.cat([inputs[0], inputs[2].concat], 1))
    )
    upscale(upscaler, np.full((16, 16, 3), 128, np.uint8), noise_level=15)
    hook.remove()
    channels = seen[0][0].flatten(1)
    correlation = torch.corrcoef(channels)[:4, 4:]
    assert correlation.abs().max() < 0.35  # 256 pixels


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_by_1_is_the_inputs_pixels_and_runs_no_network(model, upscaler, channels: int, monkeypatch) -> None:
    pixels = picture(13, 31, channels)
    for each in (model, upscaler):
        counting = Counting(each.unet, monkeypatch)
        made = np.asarray(upscale(each, pixels, by=1).images[0])
        assert np.array_equal(made.reshape(pixels.shape), pixels) and counting.calls == 0


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_size_and_mode_becomes_larger_and_repeats_from_its_file(model, upscaler, channels, tmp_path) -> None:
    pixels = picture(13, 31, channels)
    Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels).save(tmp_path / "in.png")
    for each, settings, by in ((model, {}, 2), (model, {"by": 3}, 3), (upscaler, {}, 4)):
        made = upscale(each, tmp_path / "in.png", **settings)
        assert made.images[0].size == (31 * by, 13 * by)
        assert made.images[0].mode == Image.open(tmp_path / "in.png").mode
        (recipe,) = made.recipes
        again = each.steps(recipe.request()).result.images[0]
        assert again.tobytes() == made.images[0].tobytes()


def test_a_consistent_result_made_small_again_is_the_picture(model, upscaler) -> None:
    """To a level of a byte, where the picture's own noise is far from smooth; and flat stays flat."""
    flat, smooth = (
        np.full((16, 24, 3), (90, 160, 230), np.uint8),
        np.asarray(Image.fromarray(picture(4, 6)).resize((24, 16), Image.Resampling.BICUBIC)),
    )
    for each, by in ((model, 2), (upscaler, 4)):
        for pixels in (flat, smooth):
            made = np.asarray(upscale(each, pixels, consistent=True).images[0]).astype(float)
            small = made.reshape(16, by, 24, by, 3).mean((1, 3))
            assert np.abs(small - pixels).max() <= 1


@pytest.mark.parametrize("residual", [False, True])
def test_the_network_sees_tiles_of_the_models_own_size(model, upscaler, residual: bool) -> None:
    for each, settings in ((model, {"by": 3, "residual": residual}), (upscaler, {})):
        seen: set[tuple[int, ...]] = set()
        hook = each.unet.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.add(tuple(inputs[0].shape[2:])))
        upscale(each, picture(40, 56), **settings)
        hook.remove()
        assert seen == {(8, 8)}


def test_as_many_steps_run_as_were_requested_or_their_share(model, monkeypatch) -> None:
    counting = Counting(model.unet, monkeypatch)
    for settings, steps in (({}, 4), ({"steps_scale": True, "strength": 0.5}, 2), ({"strength": 0.0}, 0)):
        counting.calls = 0
        upscale(model, picture(16, 16), sampler="ddim", **settings)
        assert counting.calls == steps


def test_the_first_pass_is_the_plain_picture_of_the_models_size(model) -> None:
    """Bit for bit: hires begins where a plain call ends."""
    plain = model("apple", output_type="latent", **KNOBS).images
    request = Request(prompt="apple", seed=3, num_inference_steps=4, guidance_scale=3.0)
    task = Hires(scale=2)
    resolved = resolve_request(model, task.fit(model, request))
    assert (resolved.recipe.width, resolved.recipe.height, resolved.recipe.tile_size) == (64, 64, 32)
    with torch.inference_mode():
        assert torch.equal(task.first_pass(model, resolved), plain)


@pytest.mark.parametrize("own", [{}, {"residual": True}, {"strength": 0.0}, {"scale": 1.5, "steps_scale": True}])
def test_hires_repeats_from_its_recipe(model, own: dict[str, Any]) -> None:
    made = model("apple", task=Hires(**own), **KNOBS)
    side = round(32 * own.get("scale", 2))
    assert made.images[0].size == (side, side)
    (recipe,) = made.recipes
    assert model.steps(recipe.request()).result.images[0].tobytes() == made.images[0].tobytes()


def test_a_latent_is_enlarged_without_the_autoencoder(model, monkeypatch) -> None:
    monkeypatch.setattr(type(model.vae), "encode", None)
    small = model("apple", output_type="latent", width=32, height=32, **KNOBS).images
    task = Hires(scale=2, enlarge="latent", strength=0)
    large = model("apple", task=task, output_type="latent", width=64, height=64, **KNOBS).images
    size = large.shape[3], large.shape[2]
    by_pillow = [Image.fromarray(channel.numpy()).resize(size, Image.Resampling.BICUBIC) for channel in small[0]]
    torch.testing.assert_close(large[0], torch.stack([torch.from_numpy(np.array(each)) for each in by_pillow]))
    again = model("apple", task=Hires(scale=2, enlarge="latent"), width=64, height=64, **KNOBS)
    assert again.images[0].size == (64, 64)


def test_hires_of_several_is_hires_of_each(model) -> None:
    both = model("apple", task=Hires(), num_images_per_prompt=2, output_type="pt", **KNOBS).images
    second = model("apple", task=Hires(), output_type="pt", **{**KNOBS, "seed": 4}).images
    torch.testing.assert_close(both[1:], second, rtol=1e-4, atol=1e-4)


def test_the_residual_begins_on_the_known_picture_and_ends_off_it() -> None:
    process, seen = DiscreteVP(), []

    class Watching:
        def __init__(self) -> None:
            self.process = process

        def __call__(self, x: Tensor, t: float) -> Prediction:
            seen.append(x)
            return Prediction(x, x)

    x, z, noise = torch.randn(3, 1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    residual = SkipResidual(Watching(), z, noise, 600.0)
    middle = process.time_of_index((600.0 - 1) / 2).item()  # half of the way to -1
    for t in (600.0, middle, -1.0):
        residual(x, t)
    torch.testing.assert_close(seen[0], process.add_noise(z, noise, 600.0))
    torch.testing.assert_close(seen[1], x.lerp(process.add_noise(z, noise, middle), 1 / 8))
    assert torch.equal(seen[2], x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m, u: Hires(scale=0.5), r"scale=0.5 is not possible; use 1 to 16"),
        (lambda m, u: Hires(enlarge="latnt"), r"unknown enlarge 'latnt'; did you mean 'latent'\?"),
        (lambda m, u: Hires(strength=1.5), r"strength=1.5 is not possible; use 0 to 1"),
        (lambda m, u: Hires.from_settings({"sale": 2}), r".*setting of hires.*'sale'.*scale.*"),
        (lambda m, u: u("x", task=Hires(), **KNOBS), r"this model is for upscaling .* ldm upscale .*"),
        (lambda m, u: upscale(m, picture(), by=17), r"by=17 is not possible; use 1 to 16"),
        (lambda m, u: upscale(m, picture(), by=0), r"by=0 is not possible; use 1 to 16"),
        (lambda m, u: upscale(u, picture(), by=2), r"by=2 is not what this model does; use 4"),
        (lambda m, u: upscale(u, picture(), noise_level=16), r"noise_level=16 is above .*; use 0 to 15"),
        (
            lambda m, u: upscale(u, picture(), strength=0.5),
            r"strength=0.5 is without effect on a model for upscaling.*",
        ),
        (lambda m, u: upscale(m, picture(), noise_level=20), r"noise_level=20 is without effect on a model that is.*"),
        (lambda m, u: upscale(m, picture(), width=128), r"the size follows from the picture and by.*"),
        (lambda m, u: upscale(m, picture(), tile_size=12), r"tile_size=12 is not a multiple of 8; use 8 or 16"),
    ],
)
def test_what_cannot_be_done_is_one_line(model, upscaler, make, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        make(model, upscaler)
