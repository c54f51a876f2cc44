"""Captions of a plot: title with the newest values, and values at the cursor."""

from collections.abc import Iterator, Sequence
from math import isnan

from pvtool.dashboard.plot import axes
from pvtool.dashboard.plot.series import Series
from pvtool.dashboard.plot.view import Curve, View

_TOLERANCE = 0.02  # fraction of the range: a cursor this close to the end still reads the curve


def title_caption(title: str, curves: Sequence[Curve], view: View, unit: str) -> str:
    """Return the title of a plot: `icr 0.412 · live`, or `GPU · live · 0 61.2 · 1 58.9 GiB`.

    The end of a title with several curves may be cut off. A smoothed curve shows the mean of its
    newest steps and the trend: `icr 0.431↓ · live`.
    """
    newest = [(curve.label, curve.series) for curve in curves if curve.kind == "main"]
    state = "zoomed" if view.range else "live" if view.live else ""
    if len(newest) == 1:
        return f"{title} {_format_newest(newest[0][1], unit)}" + (f" · {state}" if state else "")
    values = " · ".join(f"{label} {_format_newest(series, '')}" for label, series in newest)
    return " · ".join(part for part in (title, state, values) if part) + (
        f" {unit}" if unit and values else ""
    )


def cursor_caption(curves: Sequence[Curve], view: View, unit: str, room: int) -> str:
    """Return the values nearest to the cursor: `step 1 240 · icr 0.412`."""
    points = list(_points(curves, view))
    if view.cursor is None or not points:
        return ""
    x = axes.position_label(points[0][0].series.position(points[0][1], view.axis), view.axis)
    parts = [f"step {x}" if view.axis == "step" else x]
    parts += [f"{curve.label} {_format_raw(curve, index, unit)}" for curve, index in points]
    first, index = points[0]
    if len(points) == 1 and (y := drawn_value(first, index)) is not None and first.series.smoothed:
        parts.append(f"smooth {axes.format_value(y)}")
    caption = " · ".join(parts)
    return caption if len(caption) <= room else " · ".join(parts[: 1 + len(points)])[:room]


def cursor_values(curves: Sequence[Curve], view: View) -> Iterator[tuple[int, float]]:
    """Yield the index of each curve and its drawn value at the cursor."""
    for curve, index in _points(curves, view):
        if (value := drawn_value(curve, index)) is not None:
            yield curves.index(curve), value


def drawn_value(curve: Curve, index: int) -> float | None:
    """Return the drawn value of a point: smoothed if available, otherwise raw."""
    series = curve.series
    values = series.smoothed.track.values if series.smoothed else series.raw.values
    return values[index] if index < len(values) and not isnan(values[index]) else None


def _points(curves: Sequence[Curve], view: View) -> Iterator[tuple[Curve, int]]:
    """Yield the curves that extend to the cursor, with the index of the nearest point."""
    first, last = view.visible_range()
    tolerance = (last - first) * _TOLERANCE
    for curve in curves:
        extent = curve.series.extent(view.axis)
        if (
            view.cursor is not None
            and extent
            and extent[0] - tolerance <= view.cursor <= extent[1] + tolerance
        ):
            yield curve, curve.series.nearest(view.cursor, view.axis)


def _format_raw(curve: Curve, index: int, unit: str) -> str:
    value = curve.series.raw.values[index]
    return "not a number" if isnan(value) else _with_unit(value, unit)


def _format_newest(series: Series, unit: str) -> str:
    trend = series.trend if series.smoothed else None
    return _with_unit(trend.mean, unit) + trend.arrow if trend else _with_unit(series.last, unit)


def _with_unit(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{axes.format_value(value)}{' ' if unit else ''}{unit}"
