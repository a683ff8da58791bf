"""Laws of degradations: stated mean and variance, equal seeds equal bytes, texts there and back, alpha."""

import math
from itertools import pairwise

import pytest
import torch

from ldm.degradation.degrade import Degrade
from ldm.degradation.operations import parse_operation
from ldm.degradation.random_degrade import DegradeConfig

N = 400
TEXTS = (
    "blur=2",
    "blur=3x1@30",
    "down=4",
    "down=2:bicubic",
    "up=2",
    "gaussian=25",
    "salt_and_pepper=0.05",
    "speckle=0.2",
    "poisson=30",
    "jpeg=10",
    "clip",
    "round",
)


@pytest.mark.parametrize(
    ("text", "variance"),
    [
        ("gaussian=25", lambda mean: (25 / 255) ** 2),
        ("speckle=0.2", lambda mean: (0.2 * mean) ** 2),
        ("poisson=30", lambda mean: mean / 30),
        ("salt_and_pepper=0.2", lambda mean: 0.2 * 0.5 + 0.8 * mean**2 - (0.1 + 0.8 * mean) ** 2),
    ],
)
@pytest.mark.parametrize("mean", [0.1, 0.5, 1.0])
def test_noise_has_its_mean_and_variance_before_clipping(text: str, variance, mean: float):
    y = Degrade.parse(text, seed=3)(torch.full((1, N, N), mean)).double()
    expected = 0.1 + 0.8 * mean if text.startswith("salt") else mean
    sd = variance(mean) ** 0.5
    assert float(y.mean()) == pytest.approx(expected, abs=4 * sd / N)
    fourth = float(((y - y.mean()) ** 4).mean())
    assert float(y.var()) == pytest.approx(variance(mean), abs=4 * (fourth - variance(mean) ** 2) ** 0.5 / N)


def test_the_share_of_struck_pixels_is_right_to_three_deviations():
    y = Degrade.parse("salt_and_pepper=5%", seed=1)(torch.full((3, N, N), 0.5))
    struck = y != 0.5
    assert torch.equal(struck[0], struck[1])
    assert abs(float(struck[0].float().mean()) - 0.05) < 3 * math.sqrt(0.05 * 0.95) / N


@pytest.mark.parametrize("text", TEXTS)
def test_texts_come_back(text: str):
    assert str(parse_operation(text)) == text
    degrade = Degrade.parse([text, "gaussian=5"], seed=7)
    assert Degrade.from_record(degrade.record()) == degrade


@pytest.mark.parametrize("text", TEXTS)
def test_equal_seeds_give_equal_pictures_whatever_came_before(text: str):
    pictures = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    degrade = Degrade.parse([text, "gaussian=5"], seed=7)
    once = degrade(pictures[0], key=5)
    torch.rand(3)
    degrade(pictures[1], key=6)
    assert torch.equal(degrade(pictures[0], key=5), once)
    assert not torch.equal(Degrade(degrade.operations, seed=8)(pictures[0], key=5), once)
    assert not torch.equal(degrade(pictures[0], key=6), once)


def test_order_matters():
    picture = torch.zeros(1, 32, 32)
    picture[:, 16, 16] = 1
    noisy_last = Degrade.parse("blur=2,gaussian=25")(picture)
    noisy_first = Degrade.parse("gaussian=25,blur=2")(picture)
    assert float(noisy_last.std()) > 4 * float(noisy_first.std())


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_stays(text: str, channels: int):
    picture = torch.rand(channels, 16, 16, generator=torch.Generator().manual_seed(0))
    y = Degrade.parse(text)(picture)
    if y.shape == picture.shape:
        assert torch.equal(y[-1], picture[-1])


@pytest.mark.parametrize("text", ["blur=2", "down=4", "down=4:bicubic"])
def test_what_is_hidden_does_not_bleed_into_what_is_seen(text: str):
    picture = torch.zeros(4, 16, 16)
    picture[0] = 1.0  # green where nothing shows
    picture[:3, :, 8:] = torch.tensor([0.2, 0.4, 0.6])[:, None, None]
    picture[3, :, 8:] = 1
    y = Degrade.parse(text)(picture)
    seen = y[:3, y[3] > 0.5]
    torch.testing.assert_close(seen, torch.tensor([0.2, 0.4, 0.6])[:, None].expand_as(seen), atol=1e-4, rtol=0)


def test_a_blur_has_its_variance_along_each_axis_and_keeps_sums():
    picture = torch.zeros(1, 61, 61)
    picture[:, 30, 30] = 1
    y = Degrade.parse("blur=4x1.5@90")(picture)[0].double()  # 90 degrees: the first axis stands upright
    place = torch.arange(61, dtype=torch.float64) - 30
    assert float(y.sum()) == pytest.approx(1, abs=1e-5)
    assert float((y.sum(1) * place**2).sum()) == pytest.approx(16, rel=0.04)  # the kernel ends at 3 sd
    assert float((y.sum(0) * place**2).sum()) == pytest.approx(1.5**2, rel=0.04)


def test_area_is_the_mean_of_blocks_and_jpeg_is_near():
    picture = torch.rand(3, 12, 8, generator=torch.Generator().manual_seed(0))
    y = Degrade.parse("down=4")(picture)
    torch.testing.assert_close(y, picture.view(3, 3, 4, 2, 4).mean((2, 4)))
    flat = torch.full((3, 24, 24), 100 / 255)
    assert float((Degrade.parse("jpeg=95")(flat) - flat).abs().max()) < 2.1 / 255


@pytest.mark.parametrize("text", [text for text in TEXTS if not text.startswith("down")])
def test_one_pixel_is_a_picture(text: str):
    assert torch.isfinite(Degrade.parse(text)(torch.rand(3, 1, 1))).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gaussian=300", "gaussian=300 is out of range; use a standard deviation from 0 to 255"),
        ("gaussian=nan", "gaussian=nan is out of range; use a standard deviation from 0 to 255"),
        ("poisson=0", "poisson=0 is out of range; use a number of quanta above 0, at most 1000000"),
        ("jpeg=0", "jpeg=0 is out of range; use a whole quality from 1 to 100"),
        ("jpeg=2.5", "jpeg=2.5 is no whole number; write it as jpeg=30"),
        ("blur=3xa", "blur=a is no number; write it as blur=2, 3x1 or 3x1@30"),
        ("gausian=5", "unknown degradation 'gausian'; did you mean 'gaussian'?"),
        ("down=4:area2", "unknown way of --down 'area2'; did you mean 'area'?"),
        ("clip=2", "clip=2: clip has no level; write clip"),
    ],
)
def test_bad_texts_are_refused_in_one_line(text: str, words: str):
    with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
        parse_operation(text)
    assert str(error.value) == words


def test_a_factor_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"down=4 does not fit a picture of 9 x 8 px.* use down=4:bicubic"):
        Degrade.parse("down=4")(torch.zeros(3, 8, 9))
    assert Degrade.parse("down=4:bicubic")(torch.zeros(3, 8, 9)).shape == (3, 2, 2)


def test_random_degradations_depend_on_seed_and_index_alone_and_keep_their_ranges():
    config = DegradeConfig(blur=1.0, jpeg=1.0, noise=1.0, gaussian=(10, 20), salt_and_pepper=(0, 0))
    listed = [config.draw(1, i, (32, 32)) for i in range(60)]
    assert listed == [config.draw(1, i, (32, 32)) for i in range(60)]
    assert all(first != second for first, second in pairwise(listed))
    assert config.draw(2, 0, (32, 32)) != listed[0]
    texts = [str(operation) for degrade in listed for operation in degrade.operations]
    assert all(10 <= float(text.split("=")[1]) <= 20 for text in texts if text.startswith("gaussian"))
    assert {text.split("=")[0] for text in texts} >= {"gaussian", "speckle", "poisson", "blur", "jpeg", "down", "up"}
    assert not any(text.startswith("salt") for text in texts)
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    y = listed[0](picture, key=0)
    assert y.shape == picture.shape
    assert torch.equal(y, (y * 255).round() / 255)


def test_ranges_are_checked():
    with pytest.raises(ValueError, match=r"degrade.gaussian=\(9, 3\) is no range"):
        DegradeConfig(gaussian=(9, 3))
    with pytest.raises(ValueError, match="gaussian=300 is out of range"):
        DegradeConfig(gaussian=(0, 300))
    with pytest.raises(ValueError, match=r"degrade\.blur=2 is no share"):
        DegradeConfig(blur=2)
