"""Laws of the Frechet distance; scipy's matrix square root and the closed form of diagonal Gaussians are oracles."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from ldm.evaluation.metrics.frechet import Gaussian, frechet_distance


def _random_gaussian(seed: int, n: int = 400, width: int = 12) -> Gaussian:
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(width, width))
    return Gaussian.of(random.normal(size=(n, width)) @ mixing + random.normal(size=width))


def test_distance_to_itself_is_zero():
    a = _random_gaussian(0)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)


def test_distance_is_symmetric():
    a, b = _random_gaussian(0), _random_gaussian(1)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_distance_equals_scipy_sqrtm():
    a, b = _random_gaussian(2), _random_gaussian(3)
    root = sqrtm(a.covariance @ b.covariance).real
    oracle = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(oracle, rel=1e-8)


def test_distance_of_diagonal_gaussians_is_closed_form():
    deviation_a, deviation_b = np.array([1.0, 2.0, 0.5]), np.array([3.0, 0.0, 0.5])
    a = Gaussian(np.array([0.0, 1.0, 2.0]), np.diag(deviation_a**2), 10)
    b = Gaussian(np.array([1.0, 1.0, 0.0]), np.diag(deviation_b**2), 10)
    assert frechet_distance(a, b) == pytest.approx(5 + ((deviation_a - deviation_b) ** 2).sum(), rel=1e-12)


def test_few_pictures_give_a_finite_distance():
    random = np.random.default_rng(4)
    a, b = (Gaussian.of(random.normal(size=(5, 40))) for _ in range(2))
    assert 0 < frechet_distance(a, b) < 1e3


def test_moments_are_those_of_numpy():
    features = np.random.default_rng(5).normal(size=(50, 4)).astype(np.float32)
    gaussian = Gaussian.of(features)
    assert gaussian.n == 50
    np.testing.assert_allclose(gaussian.covariance, np.cov(features.astype(np.float64), rowvar=False))


def test_one_picture_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2 pictures"):
        Gaussian.of(np.zeros((1, 3)))
