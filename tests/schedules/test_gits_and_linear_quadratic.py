"""The tables of GITS, and Movie Gen's line with a parabola."""

import math

import numpy as np
import pytest

from ldm.process import EDM, DiscreteVP, Flow
from ldm.schedules import MOST_NOISE, gits, linear_quadratic, make_grid


@pytest.mark.parametrize(("family", "middle"), [("sd15", [4.617, 2.507, 1.236]), ("sdxl", [4.734, 2.567, 1.529])])
def test_gits_has_the_published_sigmas_and_lies_between_them_log_linearly(family: str, middle: list[float]):
    process = DiscreteVP()
    ten, twenty = (process.log_snr_half(gits(process, n, family=family)).neg() for n in (10, 20))
    np.testing.assert_allclose(ten[1:4].exp(), middle, rtol=1e-9)
    assert (ten[0], ten[-1]) == (process.log_snr_half(process.start).neg(), -math.inf)
    np.testing.assert_allclose(twenty[2:20:2], ten[1:10], rtol=1e-9)
    np.testing.assert_allclose(twenty[3:18:2], (ten[1:9] + ten[2:10]) / 2, rtol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 10, 25])
def test_linear_quadratic_is_comfyuis(n: int):
    """Its recurrence with coefficients of i^2, i and 1, written there for sigma from 1 to 0."""
    line, rest = n // 2, n - n // 2
    short = line - 0.025 * n
    square, slope = short / (line * rest**2), 0.025 / line - 2 * short / rest**2
    taken = [i * 0.025 / line for i in range(line)]
    taken += [square * i**2 + slope * i + square * line**2 for i in range(line, n)]
    np.testing.assert_allclose(Flow().sigma(linear_quadratic(Flow(), n))[:-1], 1 - np.array(taken), rtol=1e-12)
    for process, most in ((DiscreteVP(), None), (EDM(), None), (DiscreteVP(zero_terminal_snr=True), MOST_NOISE)):
        sigmas = process.log_snr_half(linear_quadratic(process, n)).neg().exp()
        wanted = (sigmas[0].item() if most is None else most) * (1 - np.array(taken))
        np.testing.assert_allclose(sigmas[1:-1], wanted[1:], rtol=1e-9)


def test_linear_quadratic_takes_another_corner():
    grid = linear_quadratic(Flow(), 10, threshold_noise=0.2, linear_steps=4)
    np.testing.assert_allclose(Flow().sigma(grid)[:5], [1, 0.95, 0.9, 0.85, 0.8], rtol=1e-12)
    steps = -Flow().sigma(grid)[4:].diff()
    assert bool((steps.diff() > 0).all())
    np.testing.assert_allclose(steps.diff().diff(), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("gits", {"family": "svd"}, "unknown family 'svd'; did you mean 'sdxl' or 'sd15'"),
        ("linear_quadratic", {"threshold_noise": 1.5}, "threshold_noise=1.5 must be above 0 and below 1"),
        ("linear_quadratic", {"linear_steps": 5}, "linear_steps=5 must be 1 to 4"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict, words: str):
    with pytest.raises(ValueError, match=words):
        make_grid(name, DiscreteVP(), 5, options)
