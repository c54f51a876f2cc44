"""Scores of three or more methods from comparisons with ties: the model of Rao and Kupper (1967).

With strengths π and a threshold θ ≥ 1, method i wins against j with the probability
π_i / (π_i + θ π_j), and ties have the rest. Without ties θ is 1, as in the model of Bradley and
Terry. The estimate is by the MM algorithm of Hunter (2004), "MM algorithms for generalized
Bradley-Terry models".
"""

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]
_STEPS = 10_000
_CLOSE = 1e-10


def scores(wins: _Floats, ties: _Floats) -> tuple[_Floats, float] | None:
    """Return log-strengths with mean zero, and θ; None if no maximum exists.

    `wins[i, j]` counts wins of i over j, `ties` is symmetric. There is no maximum if some methods
    never lost against, or tied with, any of the others.
    """
    count = len(wins)
    favourable = wins + ties
    if not _connected(favourable > 0):
        return None
    totals, all_ties = favourable.sum(1), ties.sum() / 2
    strength, theta = np.ones(count), 2.0 if all_ties else 1.0
    for _ in range(_STEPS):
        share = favourable / (strength[:, None] + theta * strength)
        np.fill_diagonal(share, 0)
        updated = totals / (share.sum(1) + theta * share.sum(0))
        updated /= np.exp(np.log(updated).mean())
        if all_ties:
            share = favourable / (updated[:, None] + theta * updated)
            np.fill_diagonal(share, 0)
            half = all_ties / (share * updated).sum()
            theta = half + np.sqrt(half**2 + 1)
        done = np.abs(np.log(updated / strength)).max() < _CLOSE
        strength = updated
        if done:
            break
    return np.log(strength), float(theta)


def _connected(reaches: NDArray[np.bool_]) -> bool:
    """Return whether every method is reached from every other (Ford 1957)."""
    paths = reaches | np.eye(len(reaches), dtype=bool)
    for _ in range(len(reaches)):
        paths = paths @ paths
    return bool(paths.all())
