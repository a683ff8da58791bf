"""Preview matrices: the shipped model's shows its colours, folders keep their own, published families have theirs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from autoencoder.latent_format import LatentFormat
from ldm import LatentDiffusion
from ldm.families.stable_diffusion import SD1, SD2, SDXL
from ldm.io.disk.files import ModelFileError
from ldm.io.folder.pipelines import with_usual_preview


def test_the_shipped_models_matrix_shows_its_colours() -> None:
    model = LatentDiffusion.from_pretrained("emoji")
    latents = model("a red apple, 3d style", seed=0, num_inference_steps=4, output_type="latent").images
    with torch.inference_mode():
        true = F.adaptive_avg_pool2d(model.decode(latents, upscale=False), latents.shape[-2:])
    seen = model.parts.latent_format.to_rgb(latents)
    unexplained = (seen - true).square().mean() / (true - true.mean((2, 3), keepdim=True)).square().mean()
    assert unexplained < 0.3


def test_a_folder_keeps_its_matrix(tiny_folder: Path, tmp_path: Path) -> None:
    model = LatentDiffusion.from_pretrained(tiny_folder)
    assert model.parts.latent_format.preview is None
    matrix = tuple((0.25 * row, 0.5, -0.25 * row) for row in range(5))
    latent_format = replace(model.parts.latent_format, preview=matrix)
    LatentDiffusion(replace(model.parts, latent_format=latent_format)).save_pretrained(tmp_path / "model")
    assert LatentDiffusion.from_pretrained(tmp_path / "model").parts.latent_format == latent_format
    file = tmp_path / "model" / "ldm.json"
    content = json.loads(file.read_text())
    for wrong in ([[1, 2, 3]] * 4, [[1, 2]] * 5, [["1", "2", "3"]] * 5, 3):
        file.write_text(json.dumps(content | {"preview": wrong}))
        with pytest.raises(ModelFileError, match=r"ldm\.json: preview must be 5 rows of three numbers; delete it"):
            LatentDiffusion.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("family", [SD1, SD2, SDXL])
def test_published_families_have_theirs(family) -> None:
    published = LatentFormat(scale=family.latent_scale)
    assert with_usual_preview(published, family.unet) == replace(published, preview=family.preview)
    for other in (replace(published, scale=0.7), replace(published, factor=4), replace(published, channels=8)):
        assert with_usual_preview(other, family.unet) == other
    white, black = (
        replace(published, preview=family.preview).to_rgb(sign * torch.tensor([[[[1.0]], [[0.5]], [[0.0]], [[-1.0]]]]))
        for sign in (2, -2)
    )
    assert white.mean() > 0.7 and black.mean() < 0.3
