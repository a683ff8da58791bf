"""Reconstruction: the measurement is met, samples are their seeds', and what cannot be reconstructed is said."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from task_models import PROCESSES, picture, under

from ldm import LatentDiffusion
from ldm.evaluation.calibration import denoising_error
from ldm.families.denoising_error import ROWS, USUAL, DenoisingError, angle_of
from ldm.generation.request import Request
from ldm.guidance.posterior import POSTERIOR_METHODS
from ldm.io.disk.files import ModelFileError
from ldm.operators.composition import parse_operator
from ldm.process import EDM, DiscreteVP, Flow
from ldm.tasks.reconstruct import mean_and_deviation
from ldm.tasks.reconstruct_settings import METHODS
from ldm.tasks.table import task_from

QUICK = {"num_inference_steps": 3, "seed": 2}


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_folder)


def smooth(height: int = 24, width: int = 32) -> np.ndarray:
    """Colours far from black and white, so that nothing is clipped."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return (np.stack([90 + 60 * y, 100 + 50 * x, 160 - 40 * x * y], -1)).round().astype(np.uint8)


def on_unit(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("operator", ["identity", "blur=0.7", "area-down=2", "grey", "blur=0.6,area-down=2,grey"])
def test_without_noise_the_result_has_the_measurement(model, process: str, method: str, operator: str) -> None:
    own, truth, seen = under(model, process), smooth(), parse_operator(operator)
    measured = (seen(on_unit(truth)) * 255).round().byte()[0].permute(1, 2, 0).numpy()
    made = own.reconstruct("apple", measured, operator, method=method, **QUICK).images[0]
    assert made.size == (32, 24) and made.mode == "RGB"
    again = seen(on_unit(np.asarray(made)))
    torch.testing.assert_close(again, on_unit(measured), atol=1.01 / 255, rtol=0)


def test_without_noise_what_the_mask_leaves_keeps_its_bytes(model) -> None:
    pixels, missing = smooth(), np.zeros((24, 32), np.uint8)
    missing[4:12, 8:20] = 255
    made = np.asarray(model.reconstruct("apple", pixels, mask_image=missing, **QUICK).images[0])
    assert np.array_equal(made[missing == 0], pixels[missing == 0])
    assert not np.array_equal(made[missing > 0], pixels[missing > 0])
    hidden = np.where(missing[..., None] > 0, 77, pixels).astype(np.uint8)  # what is under the mask does not count
    assert np.array_equal(np.asarray(model.reconstruct("apple", hidden, mask_image=missing, **QUICK).images[0]), made)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (24, 17)])
def test_any_size(model, size: tuple[int, int]) -> None:
    pixels = picture(*size)
    for operator in ("identity", "area-down=4", "blur=3", "blur=1,area-down=2"):
        factor = parse_operator(operator).factor
        made = model.reconstruct("", pixels, operator, noise_level=5.0, **QUICK).images[0]
        assert made.size == (size[1] * factor, size[0] * factor)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_modes_and_alpha_stay(model, channels: int) -> None:
    pixels = picture(16, 16, channels)
    made = model.reconstruct("", pixels, "blur=1", noise_level=3.0, **QUICK).images[0]
    assert made.mode == ("L", "LA", "RGB", "RGBA")[channels - 1]
    if channels in (2, 4):
        assert np.array_equal(np.asarray(made)[..., -1], pixels[..., -1])
    assert model.reconstruct("", pixels, "grey", noise_level=3.0, **QUICK).images[0].mode == "RGB"


@pytest.mark.parametrize("method", ["daps", "dps"])
def test_samples_are_their_seeds_whatever_is_with_them(model, method: str) -> None:
    pixels = picture(16, 24)
    options = {"operator": "area-down=2", "noise_level": 20.0, "method": method, "num_inference_steps": 3}
    three = model.reconstruct("apple", pixels, seed=4, num_images_per_prompt=3, **options).images
    alone = [model.reconstruct("apple", pixels, seed=4 + i, **options).images[0] for i in range(3)]
    split = model.reconstruct("apple", pixels, seed=4, num_images_per_prompt=3, batch_size=2, **options).images
    for others in (alone, split):
        for one, other in zip(three, others, strict=True):
            assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1  # of a batch's rounding
    assert three[0].tobytes() != three[1].tobytes()
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    both = model.reconstruct("apple", pixels, generator=generators, num_images_per_prompt=2, **options).images
    assert both[0].tobytes() != both[1].tobytes()


def test_the_last_step_is_the_mean_of_decoder_and_measurement(model) -> None:
    """A = I gives (s^2 G(z) + r^2 y) / (s^2 + r^2)."""
    pixels = smooth(24, 32)
    parts = replace(model.parts, errors=DenoisingError((0.02, *USUAL.errors[1:])))
    own, level = LatentDiffusion(parts), 2.0
    options = {"noise_level": level, "method": "diffpir", **QUICK}
    latents = own.reconstruct("", pixels, output_type="latent", **options).images
    with torch.inference_mode():
        decoded = own.decode(latents)[0]
    s2, r2 = (level / 127.5) ** 2, 0.02
    expected = (s2 * decoded + r2 * on_unit(pixels)[0]) / (s2 + r2)
    made = own.reconstruct("", pixels, output_type="pt", **options).images[0]
    torch.testing.assert_close(made, expected, atol=1.5 / 255, rtol=0)


def test_the_recipe_says_it_all(model, tmp_path: Path) -> None:
    Image.fromarray(picture(16, 16)).save(tmp_path / "in.png")
    missing = np.zeros((16, 16), np.uint8)
    missing[4:8] = 255
    Image.fromarray(missing).save(tmp_path / "mask.png")
    result = model.reconstruct("", tmp_path / "in.png", "blur=1", tmp_path / "mask.png", 7.0, **QUICK)
    task = task_from(json.loads(result.recipes[0].to_json())["task"])
    assert (task.operator, task.noise_level, task.method) == ("blur=1", 7.0, "daps")  # type: ignore[attr-defined]
    again = model.steps(Request.from_content(Request(**result.recipes[0].values()).values(), "it")).result
    assert again.images[0].tobytes() == result.images[0].tobytes()


def test_what_cannot_be_reconstructed_is_said(model) -> None:
    pixels, white = picture(16, 16), np.full((16, 16), 255, np.uint8)
    for given, line in (
        ({"operator": "blurr=2"}, r"unknown operator 'blurr'; did you mean 'blur'"),
        ({"noise_level": 256.0}, r"noise_level=256.0 is not possible; use 0 to 255"),
        ({"noise_level": math.nan}, r"noise_level"),
        ({"method": "magic"}, r"unknown method 'magic'; known: daps, ddnm, diffpir, dps, red_diff"),
        ({"mask_image": white}, r"the mask is white all over, so nothing of the picture is known"),
        ({"mask_image": white[:8]}, r"the mask has 16 x 8 pixels and the picture 16 x 16"),
        ({"sampler": "euler"}, r"sampler='euler' is without effect: the method steps by itself"),
        ({"schedule": "karras"}, r"schedule='karras' is without effect"),
        ({"width": 64}, r"the size follows from the picture and the operator; leave out width and height"),
    ):
        with pytest.raises(ValueError, match=line):
            model.reconstruct("", pixels, **given, **QUICK)


def test_the_methods_are_those_of_both_families() -> None:
    assert list(METHODS) == [*POSTERIOR_METHODS, "dps", "red_diff"]


def test_mean_and_deviation_of_samples() -> None:
    first, second = (np.full((2, 3, 3), value, np.uint8) for value in (100, 120))
    second[0, 0] = 100
    mean, deviation = mean_and_deviation([Image.fromarray(first), Image.fromarray(second)])
    assert np.asarray(mean)[1, 1].tolist() == [110] * 3 and np.asarray(mean)[0, 0].tolist() == [100] * 3
    assert np.asarray(deviation)[1, 1] == 40 and np.asarray(deviation)[0, 0] == 0 and deviation.mode == "L"
    grey = [Image.fromarray(np.full((2, 2), value, np.uint8)) for value in (0, 255)]
    assert mean_and_deviation(grey)[0].mode == "L" and np.asarray(mean_and_deviation(grey)[1]).min() == 255


def test_a_table_is_read_at_the_same_level_of_every_process() -> None:
    table = DenoisingError(tuple(0.01 * 1.1**row for row in range(ROWS)))
    for process in (DiscreteVP(zero_terminal_snr=True), Flow(), EDM()):
        t = process.time_of_lambda(-math.log(math.tan(angle_of(7))))
        assert table.at(*(level.item() for level in process.levels(t))) == pytest.approx(0.01 * 1.1**7, rel=1e-3)
    assert table.at(1.0, 0.0) == pytest.approx(table.autoencoder) and table.at(0.0, 1.0) == pytest.approx(
        table.errors[-1]
    )
    assert table.of_latents(1.0, 0.0) == pytest.approx(0, abs=1e-12) and table.of_latents(0.0, 1.0) == pytest.approx(1)
    assert table.of_denoiser(0.0, 1.0) == pytest.approx(table.errors[-1] - table.autoencoder)
    assert USUAL.of_latents(0.6, 0.8) == pytest.approx(0.64, rel=2e-3)
    assert table.at(1.0, math.tan(0.5 * (angle_of(3) + angle_of(4)))) == pytest.approx(0.01 * 1.1**3.5)


def test_calibration_measures_what_it_says(model, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        Image.fromarray(picture(40, 40, seed=number)).save(tmp_path / "in" / f"{number}.png")
    errors = denoising_error(model, str(tmp_path / "in"), 2)
    assert (
        len(errors.errors) == ROWS
        and errors.pictures == 2
        and errors == denoising_error(model, str(tmp_path / "in"), 2)
    )
    from ldm.evaluation.restoration.pictures import read_pictures

    pictures, _ = read_pictures(str(tmp_path / "in"), "train", 2, 0, size=model.parts.defaults.width)
    with torch.inference_mode():
        apart = [4 * (model.decode(model.encode(each[None])) - each).square().mean().item() for each in pictures]
    assert errors.autoencoder == pytest.approx(sum(apart) / 2, rel=1e-4)
    with pytest.raises(ValueError, match="n=0 must be at least 1"):
        denoising_error(model, str(tmp_path / "in"), 0)


def test_a_folder_keeps_its_table_and_a_damaged_one_is_said(model, tmp_path: Path) -> None:
    table = DenoisingError(tuple(float(f"{0.01 * 1.1**row:.4g}") for row in range(ROWS)), 5)
    LatentDiffusion(replace(model.parts, errors=table)).save_pretrained(tmp_path / "model")
    assert LatentDiffusion.from_pretrained(tmp_path / "model").parts.errors == table
    assert model.parts.errors is None
    file = tmp_path / "model" / "denoising_errors.json"
    for wrong, line in (
        ({"errors": [1.0]}, "errors has 1 rows"),
        ({"errors": [1.0, -1.0]}, "errors"),
        ({"error": [1.0, 1.0]}, "error is unknown to this version; known: pictures, errors"),
    ):
        file.write_text(json.dumps(wrong))
        with pytest.raises(ModelFileError, match=line):
            LatentDiffusion.from_pretrained(tmp_path / "model")


def test_diffusers_opens_a_folder_with_a_table(model, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    LatentDiffusion(replace(model.parts, errors=USUAL)).save_pretrained(tmp_path / "model")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model", safety_checker=None)
    assert pipeline.unet is not None


def test_the_shipped_model_has_a_table() -> None:
    errors = LatentDiffusion.from_pretrained("emoji").parts.errors
    assert errors is not None and len(errors.errors) == ROWS and errors.pictures >= 8
    assert all(first < second * 1.05 for first, second in zip(errors.errors, errors.errors[1:], strict=False))
    assert 0.001 < errors.autoencoder < 0.05 < errors.errors[-1] < 2
