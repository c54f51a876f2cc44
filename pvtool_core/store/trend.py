"""Smoothed values of a run: the mean of several steps, since one step is one random prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, isfinite, sqrt

TREND_STEPS = 20
RECENT_STEPS = 2 * TREND_STEPS
"""Number of newest steps that `trend_of` reads."""


@dataclass(frozen=True)
class Trend:
    """Mean of the newest steps, and its direction.

    The direction is ↑, ↓, → (within the noise), or empty if unknown.
    """

    mean: float
    arrow: str = ""


def trend_of(values: Sequence[float | None]) -> Trend | None:
    """Return the mean of the last 20 steps, compared with the 20 before; None without a number.

    `values` holds one value per step, oldest first; None, NaN and infinite values are left out.
    The arrow needs 40 steps. A difference below its standard error counts as unchanged.
    """
    newest = _numbers(values[-TREND_STEPS:])
    if not newest:
        return None
    before = _numbers(values[-RECENT_STEPS:-TREND_STEPS]) if len(values) >= RECENT_STEPS else []
    return Trend(_mean(newest), _arrow(before, newest))


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and isfinite(value)]


def _mean(values: list[float]) -> float:
    return fsum(values) / len(values)


def _variance_of_mean(values: list[float]) -> float:
    mean, count = _mean(values), len(values)
    return fsum((value - mean) ** 2 for value in values) / (count - 1) / count


def _arrow(before: list[float], newest: list[float]) -> str:
    if min(len(before), len(newest)) < 2:
        return ""
    noise = sqrt(_variance_of_mean(before) + _variance_of_mean(newest))
    change = _mean(newest) - _mean(before)
    return "→" if abs(change) <= noise else "↑" if change > 0 else "↓"
