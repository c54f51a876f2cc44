"""Smoothed values of a run, and their trend."""

import math
import random

import pytest

from pvtool_core.store.trend import Trend, trend_of


def test_value_is_the_mean_of_the_last_20_steps() -> None:
    values = [*[9.0] * 5, *[0.5] * 19, 1.5]
    trend = trend_of(values)
    assert trend and trend.mean == pytest.approx(0.55) and trend.arrow == ""


@pytest.mark.parametrize(("slope", "arrow"), [(-0.01, "↓"), (0.01, "↑"), (0.0, "→")])
def test_the_arrow_compares_with_the_20_steps_before(slope: float, arrow: str) -> None:
    trend = trend_of([1 + slope * step for step in range(60)])
    assert trend and trend.arrow == arrow
    assert trend.mean == pytest.approx(1 + slope * 49.5)


def test_noise_is_rarely_reported_as_a_trend() -> None:
    draw = random.Random(7)
    arrows = [trend_of([draw.gauss(0, 1) for _ in range(40)]) for _ in range(300)]
    assert sum(trend is not None and trend.arrow == "→" for trend in arrows) > 180


def test_values_that_are_not_finite_are_ignored() -> None:
    assert trend_of([1.0, None, math.nan, math.inf, 3.0]) == Trend(2.0, "")
    assert trend_of([]) is None
    assert trend_of([None, math.nan]) is None
    assert trend_of([*[math.nan] * 20, *[1.0] * 20]) == Trend(1.0, "")
