"""Numbers over steps: every extreme is found, the smoothing is the published one, scales and ticks are round."""

import math
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pvtool.dashboard.follow.run_history import RunHistory
from pvtool.dashboard.plot import axes, raster
from pvtool.dashboard.plot.series import SMALLEST, Axis, Series
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
    """The numbers that are kept: what is too small for a float32 is zero."""
    found = [value for value in points if value is not None and math.isfinite(value)]
    return [value if abs(value) >= SMALLEST else 0.0 for value in found]


@given(values, st.data())
def test_the_extremes_of_any_part_are_those_of_its_numbers(
    points: list[float | None], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(points)))
    stop = data.draw(st.integers(start, len(points)))
    inside = finite(points[start:stop])
    assert series_of(points).raw.extent(start, stop) == (
        (min(inside), max(inside)) if inside else None
    )


@given(values, st.data())
def test_on_a_log_scale_only_what_is_above_zero_counts(
    points: list[float | None], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(points)))
    inside = [value for value in finite(points[start:]) if value > 0]
    expected = (min(inside), max(inside)) if inside else None
    assert series_of(points).raw.extent(start, len(points), positive=True) == expected


@given(values)
def test_extremes_stay_right_while_points_are_added(points: list[float | None]) -> None:
    series = Series()
    for step, value in enumerate(points):
        series.append(step, 0, value)
        inside = finite(points[: step + 1])
        assert series.raw.extent(0, len(series)) == ((min(inside), max(inside)) if inside else None)


@given(values, st.integers(1, 90), st.sampled_from(["step", "time"]))
def test_every_spike_is_seen_in_a_column_of_its_own_place(
    points: list[float | None], columns: int, axis: Axis
) -> None:
    series = series_of(points)
    positions = series.positions(axis)
    first, last = positions[0], max(positions[-1], positions[0] + 1)
    at = raster.edges(positions, first, last, columns)
    spans = raster.spans(series.raw, positions, at, first, (last - first) / columns, False)
    assert at[0] == 0
    assert at[-1] == len(series)
    for column, (start, stop) in enumerate(pairwise(at)):
        for index in range(start, stop):
            value = series.raw.values[index]
            place = (positions[index] - first) / (last - first) * columns
            assert column - 1e-6 <= place <= column + 1 + 1e-6
            if not math.isnan(value):
                span = spans[column]
                assert span
                assert span[0] <= value <= span[1]


@given(values, st.sampled_from([0.5, 0.9, 0.99]), st.integers(1, 50))
def test_smoothing_in_pieces_is_the_plain_formula(
    points: list[float | None], weight: float, piece: int
) -> None:
    series = series_of(points)
    while not series.smooth(weight, piece):
        pass
    assert series.smoothed
    last = norm = 0.0
    for value, smooth in zip(series.raw.values, series.smoothed.track.values, strict=True):
        if math.isnan(value):
            assert math.isnan(smooth)
        else:
            last, norm = last * weight + value, norm * weight + 1
            assert smooth == pytest.approx(last / norm, rel=1e-5, abs=1e-2)


def test_smoothing_follows_new_points_and_leaves_the_old_weight_to_look_at_until_the_new_one_is_there() -> (
    None
):
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


def test_the_newest_number_is_remembered_past_gaps() -> None:
    assert series_of([None]).last is None
    assert series_of([0.4, None, math.nan, -math.inf, 1e300]).last == 0.4


def test_a_clock_that_was_set_back_does_not_fold_the_curve() -> None:
    series = Series()
    for step, time in enumerate([100.0, 110.0, 50.0, 112.0]):
        series.append(step, time, 1.0)
    assert [series.position(index, "time") for index in range(4)] == [0, 10, 10, 12]


def test_elapsed_time_counts_from_the_runs_start_where_that_is_known() -> None:
    series = Series(origin=90.0)
    series.append(5, 100.0, 1.0)
    assert series.extent("time") == (10.0, 10.0)
    assert series.extent("step") == (5.0, 5.0)


@given(values, st.floats(-10, 400))
def test_the_nearest_point_is_the_nearest(points: list[float | None], x: float) -> None:
    found = series_of(points).nearest(x, "step")
    assert abs(found - x) == min(abs(step - x) for step in range(len(points)))


@given(st.floats(1e-9, 1e9))
def test_a_round_step_is_1_2_or_5_and_no_more_than_it_must_be(least: float) -> None:
    step = axes.round_step(least)
    mantissa = float(f"{step:e}".split("e", maxsplit=1)[0])
    assert mantissa in (1, 2, 5)
    assert least * (1 - 1e-6) <= step <= least * 2.5 * (1 + 1e-6)


@given(numbers, st.floats(0, 1e6), st.integers(2, 14))
@example(0.0, 5e-324, 2)
def test_a_scale_holds_its_values_between_its_first_and_last_tick(
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
def test_a_log_scale_holds_its_values_and_has_few_ticks(
    low: float, factor: float, intervals: int
) -> None:
    scale = axes.fit((low, low * factor), None, True, intervals)
    assert scale.low <= low * (1 + 1e-6)
    assert low * factor <= scale.high * (1 + 1e-6)
    assert 2 <= len(scale.ticks) <= max(intervals + 1, 4)


@given(numbers, st.floats(1e-3, 1e6))
def test_labels_of_ticks_are_all_different(low: float, size: float) -> None:
    labels = axes.fit((low, low + size), None, False, 5).labels()
    assert len(set(labels)) == len(labels)


@given(st.floats(0, 1e7), st.floats(8, 1e7), st.sampled_from(["step", "time"]))
def test_ticks_along_the_axis_are_within_it_and_few(first: float, size: float, axis: Axis) -> None:
    ticks = axes.ticks_along(first, first + size, axis, 6)
    assert len(ticks) <= 8
    assert all(first - 1e-3 <= tick <= first + size + 1e-3 for tick in ticks)
    assert len({axes.along(tick, axis) for tick in ticks}) == len(ticks)


@pytest.mark.parametrize(
    ("bounds", "expected"), [((0, 1), ["0.0", "0.5", "1.0"]), (None, ["0.41", "0.49"])]
)
def test_bounds_are_the_least_that_a_scale_shows(
    bounds: tuple[float, float] | None, expected: list[str]
) -> None:
    assert axes.fit((0.41, 0.49), bounds, False, 2).labels() == expected


def test_a_value_out_of_bounds_is_shown_all_the_same() -> None:
    assert axes.fit((-0.3, 0.8), (0, 1), False, 4).low <= -0.3


def test_a_constant_has_a_scale_around_it() -> None:
    scale = axes.fit((1e-4, 1e-4), None, False, 4)
    assert scale.low < 1e-4 < scale.high


@pytest.mark.parametrize(
    ("seconds", "words"),
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
def test_durations_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert axes.duration(seconds) == words


@pytest.mark.parametrize(
    ("number", "words"),
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
def test_values_are_read_with_three_figures_or_so(number: float, words: str) -> None:
    assert axes.short(number) == words


@pytest.mark.parametrize("name", ["lr", "seconds"])
def test_schedules_and_durations_are_never_smoothed(name: str) -> None:
    history = RunHistory()
    history.add([step_event(step) for step in range(1, 50)])
    for curve in history.curves.values():
        assert curve.smooth(0.9, 1000)
    assert history.curves[name].smoothed is None
    assert history.curves["icr"].smoothed is not None


def test_gauges_are_never_smoothed() -> None:
    history = RunHistory()
    history.add([gpu_event(step, 2) for step in range(50)])
    gauges = [
        *history.process.values(),
        *(each for one in history.devices.values() for each in one.gauges.values()),
    ]
    for gauge in gauges:
        assert gauge.smooth(0.9, 1000)
    assert not any(gauge.smoothed for gauge in gauges)
