"""The model `emoji` in the package: it is whole, small, documented, and diffusers draws the same pictures from it."""

import re
from pathlib import Path

import pytest
import torch

import ldm
from ldm.io.shipped import changed_files
from ldm.pipeline.pipeline import LatentDiffusion

FOLDER = Path(ldm.__file__).parent / "models" / "emoji"
PROMPTS = ["a red apple, 3d style", "a fox, noto style"]


@pytest.fixture(scope="module")
def pipeline() -> LatentDiffusion:
    return LatentDiffusion.from_pretrained("emoji")


@pytest.mark.slow
def test_diffusers_draws_the_same_picture_from_the_same_latent(pipeline):
    from diffusers import StableDiffusionPipeline

    theirs = StableDiffusionPipeline.from_pretrained(FOLDER)
    theirs.set_progress_bar_config(disable=True)
    defaults, factor = pipeline.parts.defaults, pipeline.parts.latent_format.factor
    shape = (len(PROMPTS), pipeline.parts.latent_format.channels, defaults.height // factor, defaults.width // factor)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mine = pipeline(PROMPTS, latents=latents, output_type="np", fast=False).images
    expected = theirs(
        PROMPTS,
        latents=latents,
        num_inference_steps=defaults.num_inference_steps,
        guidance_scale=defaults.guidance_scale,
        guidance_rescale=defaults.guidance_rescale,
        height=defaults.height,
        width=defaults.width,
        output_type="np",
    ).images
    for one, other in zip(mine, expected, strict=True):
        psnr = -10 * torch.log10(torch.tensor(((one - other) ** 2).mean()))
        assert psnr >= 40, f"{psnr:.1f} dB"


def test_a_picture_is_at_least_128_pixels_and_shows_something(pipeline):
    picture = pipeline(PROMPTS[0], seed=0, output_type="pt").images[0]
    assert min(picture.shape[1:]) >= 128
    assert picture.std() > 0.05


@pytest.mark.slow
def test_the_prompt_decides_what_is_drawn(pipeline):
    """Red and blue things differ in colour by far more than two seeds of one prompt."""
    backgrounds = pipeline(
        ["a star on a red background", "a star on a blue background"], num_images_per_prompt=4, seed=0, output_type="pt"
    ).images
    edges = backgrounds[:, :, :8].mean((2, 3)).unflatten(0, (2, 4)).mean(1)
    assert edges[0, 0] > edges[0, 2] + 0.2, f"the red background is {edges[0].tolist()}"
    assert edges[1, 2] > edges[1, 0] + 0.2, f"the blue background is {edges[1].tolist()}"


def test_it_is_small_whole_and_documented():
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    assert size <= 60 * 2**20
    assert not [path for path in FOLDER.rglob("*") if path.suffix in (".bin", ".ckpt", ".pt", ".pth")]
    card = (FOLDER / "README.md").read_text()
    for subject in ("licen", "steps", "samples", "hours", "measured", "cannot"):
        assert re.search(subject, card, re.I), f"the model card does not speak of {subject}"
    licences = (FOLDER / "DATA_LICENSES").read_text()
    for package in ("fluent-emoji-3d", "fluent-emoji-flat", "noto", "twemoji", "streamline-emojis"):
        assert package in licences


def test_the_listed_hashes_are_those_of_all_weights_and_configs():
    listed = [line.split("  ")[1] for line in (FOLDER.parent / "SHA256SUMS").read_text().splitlines()]
    kinds = (".json", ".safetensors", ".txt")
    files = [path.relative_to(FOLDER.parent).as_posix() for path in FOLDER.parent.rglob("*") if path.suffix in kinds]
    assert sorted(listed) == sorted(files) and changed_files("emoji") == []
