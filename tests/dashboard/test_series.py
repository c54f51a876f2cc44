"""Series, smoothing, scales and ticks."""

import math
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pvtool.dashboard.follow.run_history import RunHistory
from pvtool.dashboard.plot import axes, raster
from pvtool.dashboard.plot.series import SMALLEST, Axis, Series
from pvtool_core.store.events import parse_event
from tests.support.run_files import gpu_event, step_event

numbers = st.floats(-1e6, 1e6)
values = st.lists(
    st.none() | numbers | st.sampled_from([math.nan, math.inf, 0.0]), min_size=1, max_size=300
)


def series_of(points: list[float | None]) -> Series:
    series = Series()
    for step, value in enumerate(points):
        series.append(step, 1e9 + 2 * step, value)
    return series


def finite(points: list[float | None]) -> list[float]:
    """Return the finite values; values too small for float32 are zero."""
    found = [value for value in points if value is not None and math.isfinite(value)]
    return [value if abs(value) >= SMALLEST else 0.0 for value in found]


@given(values, st.data())
def test_extremes_of_any_range_are_correct(points: list[float | None], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(points)))
    stop = data.draw(st.integers(start, len(points)))
    inside = finite(points[start:stop])
    assert series_of(points).raw.extent(start, stop) == (
        (min(inside), max(inside)) if inside else None
    )


@given(values, st.data())
def test_log_scale_uses_positive_values_only(
    points: list[float | None], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(points)))
    inside = [value for value in finite(points[start:]) if value > 0]
    expected = (min(inside), max(inside)) if inside else None
    assert series_of(points).raw.extent(start, len(points), positive=True) == expected


@given(values)
def test_extremes_are_correct_while_points_are_added(points: list[float | None]) -> None:
    series = Series()
    for step, value in enumerate(points):
        series.append(step, 0, value)
        inside = finite(points[: step + 1])
        assert series.raw.extent(0, len(series)) == ((min(inside), max(inside)) if inside else None)


@given(values, st.integers(1, 90), st.sampled_from(["step", "time"]))
def test_every_spike_is_in_the_column_of_its_position(
    points: list[float | None], columns: int, axis: Axis
) -> None:
    series = series_of(points)
    positions = series.positions(axis)
    first, last = positions[0], max(positions[-1], positions[0] + 1)
    edges = raster.column_edges(positions, first, last, columns)
    spans = raster.spans(series.raw, positions, edges, first, (last - first) / columns, False)
    assert edges[0] == 0
    assert edges[-1] == len(series)
    for column, (start, stop) in enumerate(pairwise(edges)):
        for index in range(start, stop):
            value = series.raw.values[index]
            expected_column = (positions[index] - first) / (last - first) * columns
            assert column - 1e-6 <= expected_column <= column + 1 + 1e-6
            if not math.isnan(value):
                span = spans[column]
                assert span
                assert span[0] <= value <= span[1]


@given(values, st.sampled_from([0.5, 0.9, 0.99]), st.integers(1, 50))
def test_smoothing_in_parts_equals_the_formula(
    points: list[float | None], weight: float, limit: int
) -> None:
    series = series_of(points)
    while not series.smooth(weight, limit):
        pass
    assert series.smoothed
    last = norm = 0.0
    for value, smooth in zip(series.raw.values, series.smoothed.track.values, strict=True):
        if math.isnan(value):
            assert math.isnan(smooth)
        else:
            last, norm = last * weight + value, norm * weight + 1
            assert smooth == pytest.approx(last / norm, rel=1e-5, abs=1e-2)


def test_old_smoothing_remains_until_the_new_one_is_complete() -> None:
    series = series_of([1.0] * 100)
    assert series.smooth(0.9, 100)
    series.append(100, 0, 1.0)
    assert series.smooth(0.9, 1)
    assert not series.smooth(0.5, 60)
    assert series.smoothed
    assert series.smoothed.weight == 0.9
    assert series.smooth(0.5, 60)
    assert series.smoothed.weight == 0.5
    assert series.smooth(0, 1)
    assert series.smoothed is None


def test_last_value_ignores_gaps() -> None:
    assert series_of([None]).last is None
    assert series_of([0.4, None, math.nan, -math.inf, 1e300]).last == 0.4


def test_times_do_not_decrease_if_the_clock_is_set_back() -> None:
    series = Series()
    for step, time in enumerate([100.0, 110.0, 50.0, 112.0]):
        series.append(step, time, 1.0)
    assert [series.position(index, "time") for index in range(4)] == [0, 10, 10, 12]


def test_elapsed_time_counts_from_a_known_origin() -> None:
    series = Series(origin=90.0)
    series.append(5, 100.0, 1.0)
    assert series.extent("time") == (10.0, 10.0)
    assert series.extent("step") == (5.0, 5.0)


@given(values, st.floats(-10, 400))
def test_nearest_point_has_the_smallest_distance(points: list[float | None], x: float) -> None:
    found = series_of(points).nearest(x, "step")
    assert abs(found - x) == min(abs(step - x) for step in range(len(points)))


@given(st.floats(1e-9, 1e9))
def test_round_step_is_the_smallest_of_1_2_or_5(least: float) -> None:
    step = axes.round_step(least)
    mantissa = float(f"{step:e}".split("e", maxsplit=1)[0])
    assert mantissa in (1, 2, 5)
    assert least * (1 - 1e-6) <= step <= least * 2.5 * (1 + 1e-6)


@given(numbers, st.floats(0, 1e6), st.integers(2, 14))
@example(0.0, 5e-324, 2)
def test_scale_contains_its_values_between_first_and_last_tick(
    low: float, size: float, intervals: int
) -> None:
    scale = axes.fit((low, low + size), None, False, intervals)
    assert scale.low <= low + 1e-6 * size
    assert low + size <= scale.high + 1e-6 * size
    if size > 1e-6 * abs(low) + 1e-30:
        assert scale.high - scale.low <= 1.5 * size * (1 + 1e-6)
    assert 2 <= len(scale.ticks) <= intervals + 1
    steps = [after - before for before, after in pairwise(scale.ticks)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-3)


@given(st.floats(1e-12, 1e9), st.floats(1, 1e12), st.integers(2, 14))
def test_log_scale_contains_its_values_and_has_few_ticks(
    low: float, factor: float, intervals: int
) -> None:
    scale = axes.fit((low, low * factor), None, True, intervals)
    assert scale.low <= low * (1 + 1e-6)
    assert low * factor <= scale.high * (1 + 1e-6)
    assert 2 <= len(scale.ticks) <= max(intervals + 1, 4)


@given(numbers, st.floats(1e-3, 1e6))
def test_tick_labels_are_distinct(low: float, size: float) -> None:
    labels = axes.fit((low, low + size), None, False, 5).labels()
    assert len(set(labels)) == len(labels)


@given(st.floats(0, 1e7), st.floats(8, 1e7), st.sampled_from(["step", "time"]))
def test_axis_ticks_are_within_the_range_and_few(first: float, size: float, axis: Axis) -> None:
    ticks = axes.ticks_along(first, first + size, axis, 6)
    assert len(ticks) <= 8
    assert all(first - 1e-3 <= tick <= first + size + 1e-3 for tick in ticks)
    assert len({axes.position_label(tick, axis) for tick in ticks}) == len(ticks)


@pytest.mark.parametrize(
    ("bounds", "expected"), [((0, 1), ["0.0", "0.5", "1.0"]), (None, ["0.41", "0.49"])]
)
def test_scale_contains_its_bounds(bounds: tuple[float, float] | None, expected: list[str]) -> None:
    assert axes.fit((0.41, 0.49), bounds, False, 2).labels() == expected


def test_scale_contains_values_outside_of_its_bounds() -> None:
    assert axes.fit((-0.3, 0.8), (0, 1), False, 4).low <= -0.3


def test_scale_of_a_constant_surrounds_it() -> None:
    scale = axes.fit((1e-4, 1e-4), None, False, 4)
    assert scale.low < 1e-4 < scale.high


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0s"),
        (45, "45s"),
        (600, "10m"),
        (5400, "1h30m"),
        (3605, "1h00m05s"),
        (90000, "1d01h"),
        (-60, "-1m"),
    ],
)
def test_elapsed_time_is_formatted_without_zero_units(seconds: float, expected: str) -> None:
    assert axes.format_elapsed(seconds) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0.4123, "0.412"),
        (0, "0.000"),
        (7.126, "7.13"),
        (61.24, "61.2"),
        (1240.3, "1 240"),
        (3.2e-5, "3.2e-5"),
        (2e9, "2e9"),
    ],
)
def test_values_have_three_significant_digits(number: float, expected: str) -> None:
    assert axes.format_value(number) == expected


@pytest.mark.parametrize("name", ["lr", "seconds"])
def test_schedules_and_durations_are_not_smoothed(name: str) -> None:
    history = RunHistory()
    history.add(map(parse_event, [step_event(step) for step in range(1, 50)]))
    for curve in history.curves.values():
        assert curve.smooth(0.9, 1000)
    assert history.curves[name].smoothed is None
    assert history.curves["icr"].smoothed is not None


def test_gauges_are_not_smoothed() -> None:
    history = RunHistory()
    history.add(map(parse_event, [gpu_event(step, 2) for step in range(50)]))
    gauges = [
        *history.process.values(),
        *(gauge for device in history.devices.values() for gauge in device.gauges.values()),
    ]
    for gauge in gauges:
        assert gauge.smooth(0.9, 1000)
    assert not any(gauge.smoothed for gauge in gauges)
