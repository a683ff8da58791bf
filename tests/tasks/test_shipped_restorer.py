"""The restorer in the package: what its weights promise. Passed over where the package has none."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from ldm import Restorer
from ldm.data.pictures.photographs import photographs
from ldm.degradation.degrade import Degrade
from ldm.io.shipped import changed_files, shipped_restorers

pytestmark = pytest.mark.skipif(
    "restorer" not in shipped_restorers(), reason="ldm/models/restorer holds no weights yet; `ldm train` makes them"
)


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return Restorer.from_pretrained("restorer")


def drawing(size: int = 128) -> np.ndarray:
    """A flat-coloured icon on white, smooth at its edges."""
    canvas = Image.new("RGB", (4 * size, 4 * size), "white")
    pen = ImageDraw.Draw(canvas)
    pen.ellipse((60, 60, 460, 460), fill=(240, 190, 40), outline=(90, 60, 20), width=24)
    pen.polygon([(250, 120), (400, 330), (120, 330)], fill=(200, 40, 60))
    pen.rectangle((220, 300, 290, 440), fill=(40, 90, 200))
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX))


def pictures() -> list[np.ndarray]:
    return [drawing(), *(photograph[80:208, 100:228] for photograph in photographs("held_out"))]


def spoilt(picture: np.ndarray, text: str, key: int = 0) -> np.ndarray:
    values = Degrade.parse(f"{text},clip,round")(torch.from_numpy(picture.copy()).permute(2, 0, 1) / 255, key)
    return (values * 255).round().permute(1, 2, 0).byte().numpy()


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(-10 * np.log10(max(np.square(one.astype(float) - other).mean(), 1e-9) / 255**2))


def test_its_files_are_those_that_were_shipped():
    folder = shipped_restorers()["restorer"]
    listed = (folder.parent / "SHA256SUMS").read_text(encoding="utf-8")
    assert changed_files("restorer") == [] and "  restorer/diffusion_pytorch_model.safetensors\n" in listed
    assert 4e6 < (folder / "diffusion_pytorch_model.safetensors").stat().st_size < 12.6e6


@pytest.mark.parametrize(("number", "least"), [(0, 45), (1, 37), (2, 37)])  # photographs have grain of their own
def test_clean_pictures_are_not_harmed(restorer, number, least):
    picture = pictures()[number]
    assert psnr(restorer.restore(picture).pixels, picture) >= least


def test_the_network_alone_leaves_a_clean_drawing(restorer):
    rgb = torch.from_numpy(drawing().copy()).permute(2, 0, 1) / 255
    blind = (restorer.run(rgb, {}) * 255).round().permute(1, 2, 0).numpy()
    assert psnr(blind, drawing()) >= 42


@pytest.mark.parametrize("noise", ["gaussian=15", "speckle=0.1", "poisson=30"])
def test_noise_that_is_not_there_is_not_taken_out(restorer, noise):
    picture = drawing()
    result = restorer.denoise(picture, noise)
    assert psnr(result.pixels, picture) >= 36
    assert not result.found


@pytest.mark.parametrize("level", [60, 128, 200])
def test_constant_grey_with_noise_becomes_constant_again(restorer, level):
    grey = np.full((96, 96, 3), level, np.uint8)
    inside = restorer.denoise(spoilt(grey, "gaussian=15"), "gaussian=15").pixels[8:-8, 8:-8].astype(int)
    assert np.abs(inside - level).mean() <= 2
    assert abs(inside.mean() - level) <= 1.5


DAMAGES = ["gaussian=15", "gaussian=25", "gaussian=50", "salt_and_pepper=0.2", "speckle=0.2", "poisson=30", "jpeg=10"]


@pytest.mark.parametrize("text", [*DAMAGES, "blur=2,gaussian=5"])
def test_damage_is_taken_out_of_drawings_and_photographs(restorer, text):
    for picture in pictures():
        damaged = spoilt(picture, text)
        for result in (restorer.restore(damaged, text), restorer.restore(damaged)):
            assert psnr(result.pixels, picture) > psnr(damaged, picture)


def test_more_noise_leaves_more_error(restorer):
    picture = drawing()
    quality = [
        psnr(restorer.denoise(spoilt(picture, f"gaussian={sd}"), f"gaussian={sd}").pixels, picture)
        for sd in (5, 15, 30, 50)
    ]
    assert quality == sorted(quality, reverse=True)


NOISES = {"gaussian", "speckle", "poisson"}  # which are much alike where a drawing has few colours


@pytest.mark.parametrize(("text", "kind"), [(text, text.partition("=")[0]) for text in DAMAGES])
def test_the_kind_of_strong_damage_is_found(restorer, text, kind):
    found = restorer.find(spoilt(drawing(), text)).keys()
    assert found & NOISES if kind in NOISES else kind in found


def test_the_level_of_gaussian_noise_is_found(restorer):
    for sd in (15, 30, 50):
        assert restorer.find(spoilt(drawing(), f"gaussian={sd}"))["gaussian"] == pytest.approx(sd, rel=0.5)


@pytest.mark.parametrize("by", [2, 4])
def test_enlarged_drawings_are_nearer_to_the_truth_than_bicubic(restorer, by):
    truth = drawing()
    small = truth.reshape(128 // by, by, 128 // by, by, 3).mean((1, 3)).round().astype(np.uint8)
    bicubic = np.asarray(Image.fromarray(small).resize((128, 128), Image.Resampling.BICUBIC))
    assert psnr(restorer.upscale(small, by).pixels, truth) > psnr(bicubic, truth) + 1


def test_tiles_are_the_whole_to_a_level(restorer):
    from ldm.tasks import restoring

    picture = np.tile(drawing(), (2, 3, 1))
    rgb = torch.from_numpy(picture).permute(2, 0, 1) / 255
    stated = torch.zeros(2 * len(restorer.network.config.kinds))
    whole, tiled = (
        restoring.restored(restorer.network, rgb, stated),
        restoring.restored(restorer.network, rgb, stated, tile=64),
    )
    assert (whole - tiled).abs().max() <= 1 / 255
