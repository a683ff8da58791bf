"""Laws of classical filters on pictures of known structure; scipy and scikit-image are oracles where they can be."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor

from ldm.degradation.degrade import Degrade
from ldm.degradation.operations import Blur
from ldm.evaluation.restoration import filling, filters
from ldm.evaluation.restoration.bm3d import bm3d, from_opponent, to_opponent
from ldm.evaluation.restoration.noise_statistics import anscombe, debias, logarithmic, noise_level
from ldm.evaluation.restoration.similarity import psnr, ssim
from ldm.evaluation.restoration.wavelet import wavelet

SD = 25 / 255


def icon(size: int = 64) -> Tensor:
    """A shaded disc with two dark spots on white, its edges averaged down from four times the size."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, 4 * size),) * 2, indexing="ij")
    colours = torch.stack([0.9 - 0.2 * y, 0.6 + 0.3 * x, 0.2 + 0.0 * x])
    picture = torch.where(x**2 + y**2 < 0.5, colours, torch.ones(3, 1, 1))
    spots = ((x + 0.25) ** 2 + (y + 0.2) ** 2 < 0.02) | ((x - 0.25) ** 2 + (y + 0.2) ** 2 < 0.02)
    picture = torch.where(spots, torch.tensor([0.2, 0.1, 0.1])[:, None, None], picture).clamp(0, 1)
    return torch.nn.functional.avg_pool2d(picture[None], 4)[0]


def spoilt(text: str, picture: Tensor | None = None) -> Tensor:
    return Degrade.parse(text, seed=1)(icon() if picture is None else picture)


def gain(text: str, restored: Tensor) -> float:
    """dB by which a filter's picture is nearer to the icon than what it was given."""
    return psnr(restored.clamp(0, 1), icon()) - psnr(spoilt(text).clamp(0, 1), icon())


DENOISERS = {
    "median": lambda y: filters.median(y, 5),
    "bilateral": lambda y: filters.bilateral(y, 4 * SD, 2.0),
    "total variation": lambda y: filters.total_variation(y, 1.5 * SD),
    "wavelet": lambda y: wavelet(y, SD),
    "NLM": lambda y: filters.non_local_means(y, SD, 0.6),
    "BM3D": lambda y: bm3d(y, SD),
}


@pytest.mark.parametrize(
    ("name", "margin"),
    [("median", 5), ("bilateral", 4), ("total variation", 8), ("wavelet", 7), ("NLM", 9), ("BM3D", 9)],
)
def test_filters_take_noise_away(name: str, margin: float):
    assert gain("gaussian=25", DENOISERS[name](spoilt("gaussian=25"))) > margin


def test_bm3d_is_at_least_non_local_means():
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, 64),) * 2, indexing="ij")
    stripes = (0.5 + 0.3 * torch.sin(18 * x + 6 * y)) * torch.tensor([1.0, 0.8, 0.6])[:, None, None]
    pictures = (icon(), stripes)
    noisy = [spoilt("gaussian=25", picture) for picture in pictures]
    ours = [psnr(bm3d(y, SD), x) for y, x in zip(noisy, pictures, strict=True)]
    theirs = [
        max(psnr(filters.non_local_means(y, SD, strength), x) for strength in (0.5, 0.7, 0.9))
        for y, x in zip(noisy, pictures, strict=True)
    ]
    assert sum(ours) >= sum(theirs)


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("size", [(24, 19), (1, 1), (5, 40)])
def test_flat_stays_flat(name: str, size: tuple[int, int]):
    flat = torch.tensor([0.2, 0.5, 0.9])[:, None, None].expand(3, *size).contiguous()
    torch.testing.assert_close(DENOISERS[name](flat), flat, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", DENOISERS)
def test_means_stay(name: str):
    flat = torch.full((3, 64, 64), 0.5)
    noisy = spoilt("gaussian=25", flat)
    cleaned = DENOISERS[name](noisy)
    assert float((cleaned.mean((1, 2)) - noisy.mean((1, 2))).abs().max()) < 0.1 * SD / 4
    assert float(cleaned.std()) < 0.5 * SD


def test_the_median_is_scipys():
    noisy = spoilt("gaussian=25")
    expected = np.stack([ndimage.median_filter(channel, 5, mode="nearest") for channel in noisy.numpy()])
    np.testing.assert_array_equal(filters.median(noisy, 5).numpy(), expected)


def test_wavelets_and_opponent_colours_come_back():
    picture = torch.rand(3, 40, 33, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(wavelet(picture, SD, strength=0.0), picture)
    torch.testing.assert_close(from_opponent(to_opponent(picture)), picture)
    torch.testing.assert_close(to_opponent(picture).square().sum(), picture.square().sum())


def test_bm3d_without_noise_changes_nothing():
    torch.testing.assert_close(bm3d(icon(), 1e-6), icon(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["NLM", "BM3D"])
def test_clipping_costs_decibels_that_the_table_gives_back(name: str):
    clipped = DENOISERS[name](spoilt("gaussian=25,clip,round"))
    repaired = debias(clipped, lambda mu: torch.full_like(mu, SD))
    assert psnr(repaired, icon()) > psnr(clipped, icon()) + 2


@pytest.mark.parametrize("sd", [0.02, 0.1, 0.3])
def test_debias_inverts_the_mean_of_clipped_noise(sd: float):
    mu = torch.linspace(0, 1, 21, dtype=torch.float64)
    low, high = (0 - mu.numpy()) / sd, (1 - mu.numpy()) / sd
    inside = stats.norm.cdf(high) - stats.norm.cdf(low)
    seen = mu.numpy() * inside + sd * (stats.norm.pdf(low) - stats.norm.pdf(high)) + stats.norm.sf(high)
    found = debias(torch.from_numpy(seen), lambda x: torch.full_like(x, sd))
    torch.testing.assert_close(found, mu, atol=1e-3, rtol=0)


@pytest.mark.parametrize("sd", [5, 15, 25, 50])
@pytest.mark.parametrize("where", ["grey", "white", "black", "icon"])
def test_the_noise_level_is_found_also_where_it_is_clipped(sd: int, where: str):
    flat = {"grey": 0.5, "white": 1.0, "black": 0.0}
    picture = icon(128) if where == "icon" else torch.full((3, 128, 128), flat[where])
    found = 255 * noise_level(spoilt(f"gaussian={sd},clip,round", picture))
    assert found == pytest.approx(sd, rel=0.15 if where == "icon" else 0.05)


def test_a_picture_without_noise_has_no_level():
    assert noise_level(torch.ones(3, 32, 32)) == 0
    assert noise_level(torch.full((3, 1, 1), 0.5)) == 0


def test_transforms_that_make_noise_even_beat_the_filter_alone():
    def denoise(x: Tensor, sd: float) -> Tensor:
        return filters.non_local_means(x, sd, 0.6)

    quanta, speckled = spoilt("poisson=30"), spoilt("speckle=0.2")
    plain = max(psnr(denoise(quanta, sd), icon()) for sd in (0.08, 0.12, 0.16))
    assert psnr(anscombe(quanta, 30, denoise).clamp(0, 1), icon()) > plain + 0.5
    assert gain("speckle=0.2", logarithmic(speckled, 0.2, denoise)) > 5


@pytest.mark.parametrize("peak", [5.0, 30.0])
def test_the_inverse_of_the_root_is_unbiased(peak: float):
    flat = torch.full((3, 128, 128), 0.4)
    noisy = spoilt(f"poisson={peak}", flat)
    found = anscombe(noisy, peak, lambda x, sd: x.mean((1, 2), keepdim=True).expand_as(x))
    assert float(found.mean()) == pytest.approx(0.4, abs=4 * (0.4 / peak / flat.numel()) ** 0.5 + 0.002)


def test_blurs_are_undone():
    y = spoilt("blur=2,gaussian=1,clip,round")
    assert gain("blur=2,gaussian=1,clip,round", filters.wiener(y, Blur(2), 0.003)) > 2
    assert gain("blur=2,gaussian=1,clip,round", filters.richardson_lucy(y, Blur(2), 20)) > 2
    flat = torch.full((3, 30, 20), 0.4)
    torch.testing.assert_close(filters.wiener(flat, Blur(2, 1, 30), 0.01), flat, atol=1e-5, rtol=0)
    torch.testing.assert_close(filters.richardson_lucy(flat, Blur(2, 1, 30), 5), flat, atol=1e-4, rtol=0)


def test_enlarging_beats_repeating_pixels():
    small = spoilt("down=2")
    repeated = small.repeat_interleave(2, 1).repeat_interleave(2, 2)
    for enlarge in (filters.bicubic, filters.lanczos):
        assert psnr(enlarge(small, 64, 64), icon()) > psnr(repeated, icon()) + 1


@pytest.mark.parametrize("fill", ["median", "biharmonic"])
def test_salt_and_pepper_is_found_and_other_pixels_keep_their_bytes(fill: str):
    picture = 0.1 + 0.8 * icon()
    y = spoilt("salt_and_pepper=20%", picture)
    restored = filling.detect_and_fill(y, 5, 0.02, fill)
    clean = (y == picture).all(0)
    assert torch.equal(restored[:, clean], picture[:, clean])
    assert psnr(restored, picture) > psnr(filters.median(y, 5), picture) + 3


FILLS = [filling.harmonic, filling.biharmonic, filling.median_fill]
if filling.has_opencv():
    FILLS += [filling.telea, filling.navier_stokes]


@pytest.mark.parametrize("fill", FILLS)
def test_holes_are_filled_from_around(fill):
    y, x = torch.meshgrid(*(torch.linspace(0.2, 0.8, 32),) * 2, indexing="ij")
    ramp = torch.stack([x, y, 0.5 + 0 * x])
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[10:18, 12:20] = mask[0, 0] = True
    filled = fill(torch.where(mask, 0.0, ramp), mask)
    assert torch.equal(filled[:, ~mask], ramp[:, ~mask]) or fill in FILLS[3:]
    assert float((filled - ramp).abs()[:, mask].max()) < 0.1
    if fill is filling.harmonic:  # a plane is harmonic; the corner has neighbours on two sides only
        torch.testing.assert_close(filled[:, 10:18, 12:20], ramp[:, 10:18, 12:20], atol=1e-5, rtol=0)


@pytest.mark.parametrize("fill", FILLS)
def test_a_mask_over_everything_is_refused(fill):
    with pytest.raises(ValueError, match="the mask covers the whole picture; leave at least one pixel to fill from"):
        fill(icon(8), torch.ones(8, 8, dtype=torch.bool))


@pytest.mark.parametrize("fill", [filling.telea, filling.navier_stokes])
def test_without_opencv_its_fillings_say_so(fill, monkeypatch):
    monkeypatch.setattr(filling, "has_opencv", lambda: False)
    with pytest.raises(ValueError, match=r"need OpenCV; pip install 'ldm\[restoration\]'"):
        fill(icon(8), torch.zeros(8, 8, dtype=torch.bool))


def test_ssim_is_scikit_images():
    from skimage.metrics import structural_similarity

    noisy = spoilt("gaussian=25")
    expected = structural_similarity(
        noisy.double().permute(1, 2, 0).numpy(),
        icon().double().permute(1, 2, 0).numpy(),
        data_range=1,
        channel_axis=-1,
        gaussian_weights=True,
        use_sample_covariance=False,
    )
    assert ssim(noisy, icon()) == pytest.approx(expected, abs=1e-6)
    assert ssim(icon(), icon()) == pytest.approx(1)
    assert psnr(icon(), icon()) == 100
    assert psnr(torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.1)) == pytest.approx(20, abs=1e-5)
