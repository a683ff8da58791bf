"""Laws of edge and blotch on painted pictures, and the standard errors of means and ratios."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from ldm.evaluation.metrics.estimate import Estimate
from ldm.evaluation.metrics.sharpness import Gradients, Sharpness, blotch, edge


def _drawing(size: int = 96, blur: float = 0.0, low: int = 40, high: int = 200) -> Tensor:
    """A disc and a bar on a plain ground, (1, 3, size, size) in [-1, 1]."""
    picture = Image.new("L", (size, size), high)
    draw = ImageDraw.Draw(picture)
    draw.ellipse((size // 8, size // 8, size // 2, size // 2), fill=low)
    draw.rectangle((size // 2, size // 2, size - size // 8, size - size // 4), fill=(low + high) // 2)
    pixels = np.array(picture.filter(ImageFilter.GaussianBlur(blur)) if blur else picture)
    return _pictures(pixels)


def _pictures(levels: np.ndarray) -> Tensor:
    return torch.from_numpy(levels.astype(np.float32)).expand(1, 3, *levels.shape) / 127.5 - 1


def _wobble(amplitude: float, size: int = 96) -> Tensor:
    """The drawing with waves of a third of its size, in 8-bit levels."""
    phase = torch.arange(size) * 2 * torch.pi * 3 / size
    return _drawing(size) + amplitude / 127.5 * phase.sin()[:, None] * phase.cos()


def _edge(picture: Tensor, real: Tensor) -> float:
    found = edge(Gradients.of(picture), Gradients.of(real))
    assert found is not None
    return found.value


def _blotch(picture: Tensor, real: Tensor) -> float:
    found = blotch(Gradients.of(picture), Gradients.of(real))
    assert found is not None
    return found.value


def test_a_picture_beside_itself_is_as_sharp_and_as_clean():
    picture = torch.rand(3, 3, 20, 30) * 2 - 1
    own = Gradients.of(picture)
    assert edge(own, own) == Estimate(1.0, 0.0, 3)
    assert blotch(own, own) == Estimate(0.0, 0.0, 3)


def test_edge_falls_with_blur():
    found = [_edge(_drawing(blur=blur), _drawing()) for blur in (0, 0.7, 1.2, 2, 4)]
    assert found[0] == 1
    assert all(later < earlier - 0.02 for earlier, later in pairwise(found))


def test_edge_does_not_see_brightness():
    assert _edge(_drawing(low=60, high=220), _drawing()) == pytest.approx(1, rel=1e-9)
    assert _blotch(_drawing(low=60, high=220), _drawing()) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("contrast", [0.25, 0.5, 1.5])
def test_edge_is_proportional_to_contrast(contrast: float):
    reach = round(80 * contrast)
    picture = _drawing(low=120 - reach, high=120 + reach)
    assert _edge(picture, _drawing()) == pytest.approx(contrast, rel=1e-9)


def test_edge_of_a_step_is_its_height():
    """One column in 49 carries a step from black to white: it holds all of the steepest 2 %."""
    levels = np.zeros((50, 50))
    levels[:, 20:] = 255
    found = Gradients.of(_pictures(levels))
    assert found.steepest == pytest.approx(1, rel=1e-9)
    assert found.weak == 0


def test_blotch_grows_with_low_waves_on_a_flat_drawing():
    found = [_blotch(_wobble(amplitude), _drawing()) for amplitude in (0, 2, 4, 8, 16)]
    assert found[0] == 0
    assert all(later > earlier + 1 for earlier, later in pairwise(found))


@pytest.mark.parametrize(("step", "weak"), [(0, 0.0), (1, 1.0), (8, 1.0), (9, 0.0)])
def test_weak_is_from_one_to_eight_levels_a_pixel(step: int, weak: float):
    ramp = np.tile(np.arange(20) * step, (20, 1))
    assert Gradients.of(_pictures(ramp)).weak == weak


def test_pictures_of_any_size_but_not_of_one_pixel():
    Gradients.of(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match="1 x 9 px have no gradient"):
        Gradients.of(torch.zeros(1, 3, 9, 1))


def test_flat_real_pictures_give_no_edge():
    flat = Gradients.of(torch.zeros(2, 3, 8, 8))
    assert edge(Gradients.of(torch.rand(2, 3, 8, 8)), flat) is None


def test_sharpness_compares_the_autoencoded_with_their_own_real_pictures():
    """Two real pictures of unlike sharpness, the first of which is autoencoded without loss."""
    real = torch.cat([_drawing(), _drawing(blur=3)])
    pictures = torch.cat([_drawing(blur=1)] * 2)
    found = Sharpness.of(96, *(Gradients.of(images) for images in (pictures, real, real[:1])))
    assert (found.size, found.edge.n, found.autoencoded_edge.n) == (96, 2, 1)
    assert (found.autoencoded_edge.value, found.autoencoded_blotch.value) == (1, 0)
    assert found.real_steepest == pytest.approx(Gradients.of(real).steepest.mean())


def test_standard_errors_are_those_of_many_draws():
    """The spread of means and ratios over 4,000 draws is what one draw says of itself."""
    random = np.random.default_rng(0)
    sizes = random.uniform(1, 3, (4000, 50))
    values = sizes * random.normal(0.7, 0.2, sizes.shape)
    ratios = [Estimate.ratio(a, b) for a, b in zip(values, sizes, strict=True)]
    means = [Estimate.mean(a) for a in values]
    for found in (ratios, means):
        spread = np.std([one.value for one in found])
        assert np.mean([one.error for one in found]) == pytest.approx(spread, rel=0.05)
    assert np.mean([one.value for one in ratios]) == pytest.approx(0.7, rel=0.01)


def test_one_picture_has_no_error_and_none_no_estimate():
    assert Estimate.mean(np.array([2.0])) == Estimate(2.0, None, 1)
    assert Estimate.ratio(np.array([2.0]), np.array([4.0])) == Estimate(0.5, None, 1)
    assert Estimate.mean(np.array([])) is None
    assert Estimate.ratio(np.array([]), np.array([])) is None
