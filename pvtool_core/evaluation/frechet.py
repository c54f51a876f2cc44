"""Fréchet distance between sets of features."""

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32] | NDArray[np.float64]


def frechet_distance(one: Features, other: Features) -> float:
    """Return the squared Fréchet distance of two sets of features as Gaussians, in float64.

    The sets are (items, dimensions) with at least two items. It is |m₁ - m₂|² + tr(S₁ + S₂ -
    2 (S₁ S₂)^½) of means and unbiased covariances (Dowson & Landau 1982; FID, Heusel et al. 2017).
    With few items it is too large: its bias falls as 1 / items.
    """
    (mean, spread), (other_mean, other_spread) = map(_moments, (one, other))
    root = _square_root(spread)
    # root · other_spread · root has the eigenvalues of spread · other_spread, and is symmetric
    eigenvalues = np.linalg.eigvalsh(root @ other_spread @ root)
    shared = np.sqrt(eigenvalues.clip(min=0)).sum()
    apart = np.square(mean - other_mean).sum()
    return float(apart + np.trace(spread) + np.trace(other_spread) - 2 * shared)


def _moments(features: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean (dimensions,) and covariance (dimensions, dimensions)."""
    exact = features.astype(np.float64)
    return exact.mean(0), np.atleast_2d(np.cov(exact, rowvar=False))


def _square_root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the square root of a symmetric matrix without negative eigenvalues."""
    eigenvalues, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(eigenvalues.clip(min=0))) @ vectors.T
