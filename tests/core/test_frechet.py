"""The Fréchet distance equals its definition by scipy's square root of a matrix."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import linalg

from pvtool_core.evaluation.frechet import frechet_distance


def features(items: int, dimensions: int, seed: int) -> NDArray[np.float32]:
    """Return correlated features, not centred."""
    random = np.random.default_rng(seed)
    mixture = random.standard_normal((dimensions, dimensions))
    found = random.standard_normal((items, dimensions)) @ mixture + random.standard_normal(1)
    return found.astype(np.float32)


def by_scipy(one: NDArray[Any], other: NDArray[Any]) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    spreads = np.cov(one.T), np.cov(other.T)
    root: Any = linalg.sqrtm(spreads[0] @ spreads[1])
    return float(
        np.sum((one.mean(0) - other.mean(0)) ** 2)
        + np.trace(spreads[0] + spreads[1] - 2 * np.real(root))
    )


@pytest.mark.parametrize("dimensions", [2, 30, 120])
def test_distance_equals_scipy(dimensions: int) -> None:
    one, other = features(600, dimensions, 0), features(500, dimensions, 1)
    assert frechet_distance(one, other) == pytest.approx(by_scipy(one, other), rel=1e-8)
    assert frechet_distance(other, one) == pytest.approx(frechet_distance(one, other), rel=1e-8)


def test_distance_in_one_dimension_is_that_of_means_and_deviations() -> None:
    """(3 - 0)² + (2 - 1)²; the unbiased variances of these sets are 1 and 4."""
    one = np.array([-1.0, 0, 1])[:, None]
    other = np.array([1.0, 3, 5])[:, None]
    assert frechet_distance(one, other) == pytest.approx(10)


def test_distance_of_equal_sets_is_nearly_0() -> None:
    one = features(200, 120, 0)
    assert abs(frechet_distance(one, one)) < 1e-6 * float(one.var(0).sum())


def test_a_shift_adds_its_square() -> None:
    one = features(50, 8, 0).astype(np.float64)
    assert frechet_distance(one, one + 2) == pytest.approx(8 * 4, rel=1e-8)


def test_fewer_items_than_dimensions_are_no_problem() -> None:
    """Covariances are singular, where scipy's square root can fail."""
    one, other = features(20, 64, 0), features(25, 64, 1)
    found = frechet_distance(one, other)
    spreads = [np.cov(each.astype(np.float64).T) for each in (one, other)]
    eigenvalues = np.linalg.eigvals(spreads[0] @ spreads[1])
    shared = np.sqrt(np.maximum(eigenvalues.real, 0)).sum()
    means = one.mean(0, dtype=np.float64) - other.mean(0, dtype=np.float64)
    expected = float(np.sum(means**2) + sum(map(np.trace, spreads)) - 2 * shared)
    assert found == pytest.approx(expected, rel=1e-5)
