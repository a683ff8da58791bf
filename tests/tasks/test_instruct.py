"""InstructPix2Pix with both scales: diffusers' pictures, on the tiny model and by seed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from families import make_family, save
from task_models import picture

from ldm import LatentDiffusion
from ldm.noise import NoiseSource
from ldm.tasks.instruct import Instruct
from ldm.tasks.picture import Picture


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("editing")
    pipeline = make_family("editing", folder / "parts")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, LatentDiffusion.from_pretrained(save(pipeline, folder / "model"))


def ours(model: LatentDiffusion, pixels: np.ndarray, image_scale: float, **settings: object) -> torch.Tensor:
    task = Instruct(picture=Picture.of(pixels), image_guidance_scale=image_scale)
    options = {"seed": 3, "num_inference_steps": 4, "output_type": "latent", **settings}
    return model("a fox", negative_prompt="sea", task=task, **options).images  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1.5, 7.5])
@pytest.mark.parametrize("image_scale", [1.0, 1.5, 2.3])
def test_both_scales_draw_what_diffusers_draws(both, scale: float, image_scale: float) -> None:
    pipeline, model = both
    pixels = picture(32, 32)
    expected = pipeline(
        "a fox",
        image=torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255,
        negative_prompt="sea",
        latents=NoiseSource([3], (4, 8, 8))(),
        num_inference_steps=4,
        guidance_scale=scale,
        image_guidance_scale=image_scale,
        output_type="latent",
    ).images
    found = ours(model, pixels, image_scale, guidance_scale=scale)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_second_scale_costs_a_third_pass_only_where_it_acts(both) -> None:
    _, model = both
    seen: list[str] = []

    def record(layer, q, k, v, mask):
        seen.append(layer.name)
        return layer.attend(q, k, v, mask)

    for scale, image_scale, passes in ((3.0, 1.0, 2), (3.0, 1.5, 3), (1.0, 1.5, 3), (1.0, 1.0, 1)):
        seen.clear()
        task = Instruct(picture=Picture.of(picture(32, 32)), image_guidance_scale=image_scale)
        model("a fox", task=task, seed=3, num_inference_steps=1, guidance_scale=scale, attention_hook=record)
        assert len(seen) == passes * len(set(seen))


def test_any_size_and_mode_comes_back(both) -> None:
    _, model = both
    for channels, shape in ((4, (21, 45)), (1, (9, 70))):
        pixels = picture(*shape, channels)
        task = Instruct(picture=Picture.of(pixels))
        (image,) = model("a fox", task=task, seed=1, num_inference_steps=2).images
        assert np.asarray(image).reshape(*shape, -1).shape == pixels.shape
        if channels == 4:
            assert np.array_equal(np.asarray(image)[..., 3], pixels[..., 3])


def test_the_scale_is_refused_by_models_that_see_no_picture(tiny_folder: Path) -> None:
    model = LatentDiffusion.from_pretrained(tiny_folder)
    with pytest.raises(ValueError, match="this model is for text to image"):
        model("a fox", task=Instruct(picture=Picture.of(picture(32, 32))), seed=1)
    with pytest.raises(ValueError, match="image_guidance_scale=2 is for models that see a picture"):
        model("a fox", guidance_options={"image_guidance_scale": 2.0}, seed=1, num_inference_steps=1)
