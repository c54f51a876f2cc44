"""The words around a plot: its title with the newest values, and what is read at the cursor."""

from collections.abc import Iterator, Sequence
from math import isnan

from pvtool.dashboard.plot import axes
from pvtool.dashboard.plot.series import Series
from pvtool.dashboard.plot.view import Curve, View

_BEYOND = 0.02  # of the range: so near to its end a curve is still read, since not all are measured at each step


def heading(title: str, curves: Sequence[Curve], view: View, unit: str) -> str:
    """`icr 0.412 · live`; with several curves `GPU · live · 0 61.2 · 1 58.9 GiB`, the end of which may be cut.

    A smoothed curve shows the mean of its newest steps and the trend: `icr 0.431↓ · live`.
    """
    newest = [(curve.label, curve.series) for curve in curves if curve.kind == "main"]
    state = "held" if view.range else "live" if view.live else ""
    if len(newest) == 1:
        return f"{title} {_newest(newest[0][1], unit)}" + (f" · {state}" if state else "")
    values = " · ".join(f"{label} {_newest(series, '')}" for label, series in newest)
    return " · ".join(words for words in (title, state, values) if words) + (
        f" {unit}" if unit and values else ""
    )


def reading(curves: Sequence[Curve], view: View, unit: str, room: int) -> str:
    """`step 1 240 · icr 0.412`: the values nearest to the cursor."""
    points = list(_points(curves, view))
    if view.cursor is None or not points:
        return ""
    place = axes.along(points[0][0].series.position(points[0][1], view.axis), view.axis)
    words = [f"step {place}" if view.axis == "step" else place]
    words += [f"{curve.label} {_at(curve, index, unit)}" for curve, index in points]
    first, index = points[0]
    if len(points) == 1 and (level := level_at(first, index)) is not None and first.series.smoothed:
        words.append(f"smooth {axes.short(level)}")
    whole = " · ".join(words)
    return whole if len(whole) <= room else " · ".join(words[: 1 + len(points)])[:room]


def levels(curves: Sequence[Curve], view: View) -> Iterator[tuple[int, float]]:
    """Each curve's number, and how high it is drawn at the cursor."""
    for curve, index in _points(curves, view):
        if (level := level_at(curve, index)) is not None:
            yield curves.index(curve), level


def level_at(curve: Curve, index: int) -> float | None:
    """The value that is drawn at a point: the smooth one, where there is one."""
    series = curve.series
    values = series.smoothed.track.values if series.smoothed else series.raw.values
    return values[index] if index < len(values) and not isnan(values[index]) else None


def _points(curves: Sequence[Curve], view: View) -> Iterator[tuple[Curve, int]]:
    """The curves that reach to the cursor, with the index of their nearest point."""
    first, last = view.shown()
    beyond = (last - first) * _BEYOND
    for curve in curves:
        extent = curve.series.extent(view.axis)
        if (
            view.cursor is not None
            and extent
            and extent[0] - beyond <= view.cursor <= extent[1] + beyond
        ):
            yield curve, curve.series.nearest(view.cursor, view.axis)


def _at(curve: Curve, index: int, unit: str) -> str:
    value = curve.series.raw.values[index]
    return "not a number" if isnan(value) else _with_unit(value, unit)


def _newest(series: Series, unit: str) -> str:
    trend = series.trend if series.smoothed else None
    return _with_unit(trend.mean, unit) + trend.arrow if trend else _with_unit(series.last, unit)


def _with_unit(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{axes.short(value)}{' ' if unit else ''}{unit}"
