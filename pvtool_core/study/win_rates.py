"""Win rate of one method over another, with an interval for raters and sets, and the sign test.

Votes are arrays of raters × sets: 1 for a win, ½ for a tie, 0 for a loss, NaN without a vote.

The interval is a two-way cluster bootstrap: raters are drawn with replacement, then sets, and a
vote counts as often as its rater and its set are drawn (Owen, "The pigeonhole bootstrap", 2007).
Its percentiles alone are too wide: the variance of single votes enters three times (same paper),
and 95 % intervals cover 98 %. The draws are therefore studentised by the two-way cluster-robust
variance (Cameron, Gelbach and Miller 2011: that of raters, plus that of sets, minus that of single
votes), on the logit scale, which keeps intervals within 0 and 1. `tests/benchmarks/study.py`
measures the coverage.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
LEVEL = 0.95
_BLOCK = 200
Votes = NDArray[np.float64]
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class WinRate:
    """A win rate with the bounds of its 95 % interval.

    They are None if it cannot be estimated: fewer than two raters or sets, or equal votes only.
    """

    value: float
    low: float | None
    high: float | None


def win_rate(votes: Votes, seed: int = 0, draws: int = DRAWS) -> WinRate | None:
    """Return the mean vote and its interval, or None without votes."""
    there = ~np.isnan(votes)
    votes, there = votes[there.any(1)][:, there.any(0)], there[there.any(1)][:, there.any(0)]
    if not there.any():
        return None
    raters, sets = votes.shape
    if min(raters, sets) < 2 or np.ptp(votes[there]) == 0:
        return WinRate(float(votes[there].mean()), None, None)
    points, counts = np.where(there, votes, 0.0), there.astype(float)
    rates, variances = _estimates(points, counts, np.ones((1, raters)), np.ones((1, sets)))
    rate, variance = float(rates[0]), float(variances[0])
    generator = np.random.default_rng(seed)
    parts = [
        _estimates(points, counts, *(_draw(generator, size, count) for count in (raters, sets)))
        for size in _blocks(draws)
    ]
    drawn, spread = (np.concatenate(part) for part in zip(*parts, strict=True))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(_studentised(drawn, spread, rate), [tail, 1 - tail], method="nearest")
    centre, error = _logit(rate), math.sqrt(variance) / (rate * (1 - rate))
    return WinRate(rate, _expit(centre - high * error), _expit(centre - low * error))


def _blocks(draws: int) -> list[int]:
    """Split the draws, as large arrays are slow to allocate."""
    return [min(_BLOCK, draws - start) for start in range(0, draws, _BLOCK)]


def _draw(generator: np.random.Generator, draws: int, count: int) -> _Floats:
    """Return how often each of `count` was drawn, draws × count."""
    return generator.multinomial(count, np.full(count, 1 / count), size=draws).astype(float)


def _estimates(
    points: _Floats, counts: _Floats, raters: _Floats, sets: _Floats
) -> tuple[_Floats, _Floats]:
    """Return win rate and its two-way cluster-robust variance for draws of raters and of sets.

    `raters` and `sets` are draws × raters and draws × sets: how often each was drawn. Both results
    are NaN for a draw without votes, as of a study with missing ones.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        votes = _total(counts, raters, sets)
        rates = _total(points, raters, sets) / votes
        of_raters = sets @ points.T - rates[:, None] * (sets @ counts.T)
        of_sets = raters @ points - rates[:, None] * (raters @ counts)
        squares = _total(points**2, raters, sets) - 2 * rates * _total(points, raters, sets)
        single = (squares + rates**2 * votes) / votes**2
        small = [count / (count - 1) if count > 1 else 1.0 for count in points.shape]
        by_rater = small[0] * (raters * of_raters**2).sum(1) / votes**2
        by_set = small[1] * (sets * of_sets**2).sum(1) / votes**2
    both = by_rater + by_set - small[0] * small[1] * single
    # The difference can be negative by chance: no less than the largest of its parts allows.
    least = np.maximum(single, np.maximum(by_rater, by_set) / 2)
    # A draw of equal votes has no variance, and no logit if all are wins or all are losses: it
    # counts as independent votes, a quarter of one of which differs.
    near = np.clip(rates, 1 / (4 * votes), 1 - 1 / (4 * votes))
    return near, np.where(least > 0, np.maximum(both, least), near * (1 - near) / votes)


def _total(values: _Floats, raters: _Floats, sets: _Floats) -> _Floats:
    return ((raters @ values) * sets).sum(1)


def _studentised(drawn: _Floats, spread: _Floats, rate: float) -> _Floats:
    """Return the draws' distance from `rate` in standard errors, both on the logit scale."""
    ratio = (_logits(drawn) - _logit(rate)) * drawn * (1 - drawn) / np.sqrt(spread)
    return ratio[~np.isnan(ratio)]


def _logits(rates: _Floats) -> _Floats:
    return np.log(rates) - np.log1p(-rates)


def _logit(rate: float) -> float:
    return math.log(rate) - math.log1p(-rate)


def _expit(value: float) -> float:
    return 0.5 * (1 + math.tanh(value / 2))


def sign_test(votes: Votes) -> float:
    """Return the two-sided p of the exact sign test over sets.

    A set counts for the method with more votes in it; sets with as many for both are left out.
    """
    totals = np.nansum(votes - 0.5, axis=0)
    wins, losses = int((totals > 0).sum()), int((totals < 0).sum())
    count = wins + losses
    tail = sum(math.comb(count, fewer) for fewer in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**count)
