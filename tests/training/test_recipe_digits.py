"""The whole road on scikit-learn's digits: data, autoencoder, CLIP, denoiser, pictures that a classifier can read."""

import numpy as np
import pytest
import torch
from checkout import CONFIGS
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from torch.nn import functional as F

from ldm.data.recipes.digits import build_digits
from ldm.pipeline.pipeline import LatentDiffusion
from ldm.training.stages.config_file import load_run
from ldm.training.stages.train import train

pytestmark = pytest.mark.slow

DIGITS = CONFIGS / "digits"
SAMPLES = {"autoencoder": 6_000, "clip": 4_000, "ldm": 12_800, "ldm_labels": 12_800}
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of the four stages, trained as configs/digits says on fewer samples: digits can be read long before."""
    root = tmp_path_factory.mktemp("road")
    build_digits(root / "data")
    where = {
        "autoencoder": [f"output={root}/autoencoder"],
        "clip": [f"output={root}/clip"],
        "ldm": [f"output={root}/ldm", f"autoencoder={root}/autoencoder/export", f"text={root}/clip/export"],
        "ldm_labels": [f"output={root}/ldm_labels", f"autoencoder={root}/autoencoder/export"],
    }
    for stage, overrides in where.items():
        trainer = train(
            load_run(
                DIGITS / f"{stage}.yaml", [f"data.folder={root}/data", f"loop.samples={SAMPLES[stage]}", *overrides]
            )
        )
        assert trainer.samples_seen >= trainer.config.samples
    return root


@pytest.fixture(scope="module")
def reader():
    """An RBF support-vector machine on the real 8 x 8 digits, 98.9 % right on digits that it has not seen."""
    images, labels = load_digits(return_X_y=True)
    return SVC(gamma=0.001).fit(images, labels)


def _read(reader, pictures: torch.Tensor) -> np.ndarray:
    grey = pictures.mean(1, keepdim=True)
    return reader.predict((F.adaptive_avg_pool2d(grey, 8).flatten(1) * 16).numpy())


@pytest.mark.parametrize(
    ("stage", "prompts"),
    [("ldm", [f"the digit {word}" for word in WORDS]), ("ldm_labels", [str(label) for label in range(10)])],
    ids=["words", "labels"],
)
def test_the_requested_digit_is_drawn(stage, prompts, trained, reader):
    pipeline = LatentDiffusion.from_pretrained(trained / stage / "export")
    result = pipeline(prompts, num_images_per_prompt=4, seed=0, output_type="pt")
    right = _read(reader, result.images) == np.repeat(np.arange(10), 4)
    assert right.mean() >= 0.6, f"{right.sum()} of 40 digits are what was asked for; chance is 4"


def test_autoencoder_returns_what_it_was_given(trained):
    from ldm.data.pictures.dataset import PictureDataset
    from ldm.io.folder.autoencoder import load_autoencoder

    autoencoder, _ = load_autoencoder(trained / "autoencoder" / "export")
    held_out = PictureDataset(trained / "data", 32, split="held_out")
    pictures = torch.stack([held_out.image(i) for i in range(64)])
    posterior = autoencoder.encode(pictures)
    error = (autoencoder.decode(posterior.mean) - pictures).square().mean((1, 2, 3))
    assert (10 * torch.log10(4 / error)).mean() >= 20
    latents = posterior.sample(torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=0.25, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=0.25, rtol=0)
