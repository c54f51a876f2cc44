"""View shared by all plots of a screen: visible range, axis, smoothing and cursor."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal, Protocol

from pvtool.dashboard.plot.axes import round_step
from pvtool.dashboard.plot.series import Axis, Extent, Series

WEIGHTS = (0.0, 0.6, 0.9, 0.97, 0.99)
_MIN_RANGE = 4.0  # steps or seconds
_GROWTH_STEPS = 40  # a live view grows by at most this fraction of its range


@dataclass(frozen=True)
class Curve:
    """A labelled series; an overlay belongs to another run and is drawn with another pattern."""

    label: str
    series: Series
    kind: Literal["main", "overlay"] = "main"


class Viewer(Protocol):
    """Plot that is drawn with a shared view."""

    @property
    def curves(self) -> Sequence[Curve]: ...

    @property
    def on_current_pane(self) -> bool: ...

    def view_changed(self) -> None: ...

    def weight_changed(self) -> None: ...

    def cursor_moved(self) -> None: ...


class View:
    """Shared state of plots, which are notified of changes.

    Without a range, all values are shown and new ones are followed.
    """

    def __init__(self, axis: Axis = "step", weight: float = 0.9) -> None:
        self.range: Extent | None = None
        self.axis: Axis = axis
        self.weight = weight
        self.raw = True
        self.live = True  # values may still come
        self.cursor: float | None = None
        self.smoothing_lock = asyncio.Lock()  # one viewer at a time
        self._viewers: list[Viewer] = []
        self._drawn: Extent | None = None

    def add_viewer(self, viewer: Viewer) -> None:
        self._viewers.append(viewer)

    def remove_viewer(self, viewer: Viewer) -> None:
        self._viewers.remove(viewer)

    def visible_range(self) -> Extent:
        """Return the visible range.

        A live view has some space for new values and moves only when it is full.
        """
        first, last = self.range or self.full_range()
        if self.range is None and last > first:
            room = round_step((last - first) / _GROWTH_STEPS)
            last = first + ceil((last - first) / room) * room
        return (first, last) if last > first else (first - 0.5, first + 0.5)

    def data_changed(self) -> None:
        """Draw all plots again if new values, or a new plot, have changed the common range."""
        if self._drawn != (visible := self.visible_range()):
            self._drawn = visible
            self._changed()

    def full_range(self) -> Extent:
        """Return the range from the first to the last point of all curves."""
        found = [extent for series in self._series() if (extent := series.extent(self.axis))]
        return (
            (min(first for first, _ in found), max(last for _, last in found))
            if found
            else (0.0, 1.0)
        )

    def show_range(self, first: float, last: float) -> None:
        """Show a range, limited to the existing points; the full range is the same as `fit`."""
        low, high = self.full_range()
        size = max(last - first, min(_MIN_RANGE, high - low))
        first = min(max(first, low), high - size)
        self.range = None if size >= high - low else (first, first + size)
        self._changed()

    def fit(self) -> None:
        """Show all values, follow new ones and remove the cursor."""
        self.range = self.cursor = None
        self._changed()

    def zoom(self, factor: float, around: float | None = None) -> None:
        """Show `1 / factor` of the range around `around`, the cursor, or the newest point."""
        first, last = self.visible_range()
        anchor = (
            around
            if around is not None
            else self.cursor
            if self.cursor is not None
            else self.full_range()[1]
        )
        anchor = min(max(anchor, first), last)
        self.show_range(anchor - (anchor - first) / factor, anchor + (last - anchor) / factor)

    def pan(self, share: float) -> None:
        """Move by a fraction of the range."""
        first, last = self.visible_range()
        if self.range:
            self.show_range(first + share * (last - first), last + share * (last - first))

    def toggle_axis(self) -> None:
        """Switch between steps and time, keeping the same points visible."""
        old, new = self.axis, self._other_axis()
        longest = max(self._series(), key=len, default=None)

        def converted(x: float) -> float:
            assert longest is not None  # range and cursor need points
            return longest.position(longest.nearest(x, old), new)

        self.axis = new
        self.cursor = None if self.cursor is None else converted(self.cursor)
        if self.range:
            self.show_range(converted(self.range[0]), converted(self.range[1]))
        self._changed()

    def increase_smoothing(self) -> None:
        """Select the next smoothing weight; after the last, none."""
        self.weight = next((weight for weight in WEIGHTS if weight > self.weight), 0.0)
        for viewer in self._viewers:
            viewer.weight_changed()

    def toggle_raw(self) -> None:
        self.raw = not self.raw
        self._changed()

    def move_cursor(self, x: float | None) -> None:
        """Move the cursor to `x`, or remove it."""
        if x != self.cursor:
            self.cursor = x
            for viewer in self._viewers:
                viewer.cursor_moved()

    def step_cursor(self, direction: int, curves: Sequence[Curve], cell: float) -> None:
        """Move the cursor to the next value, at least about one `cell` further.

        The first position is the newest visible value, or the edge where the cursor left the view.
        The view follows the cursor.
        """
        series = next((curve.series for curve in curves if len(curve.series)), None)
        if series is None:
            return
        first, last = self.visible_range()
        if self.cursor is not None and first <= self.cursor <= last:
            x = self._next(series, self.cursor, direction, cell)
        else:
            x = self._in_view(
                series, first if self.cursor is not None and self.cursor < first else last
            )
        self.move_cursor(x)
        if not first <= x <= last:
            self._reveal(x)

    def _in_view(self, series: Series, edge: float) -> float:
        """Return the point nearest to an edge of the view, preferably inside."""
        first, last = self.visible_range()
        index = series.nearest(edge, self.axis)
        found = (
            series.position(i, self.axis)
            for i in (index, index - 1, index + 1)
            if 0 <= i < len(series)
        )
        points = list(found)
        return next((x for x in points if first <= x <= last), points[0])

    def _reveal(self, x: float) -> None:
        """Move the view so that `x` is a quarter of the range away from the edge it was beyond."""
        first, last = self.visible_range()
        size = last - first
        start = x - size / 4 if x < first else x - 3 * size / 4
        self.show_range(start, start + size)

    def _next(self, series: Series, x: float, direction: int, cell: float) -> float:
        now = series.nearest(x, self.axis)
        near = series.nearest(series.position(now, self.axis) + direction * cell, self.axis)
        index = near if near != now else min(max(now + direction, 0), len(series) - 1)
        return series.position(index, self.axis)

    def _other_axis(self) -> Axis:
        return "time" if self.axis == "step" else "step"

    def _series(self) -> Iterator[Series]:
        for viewer in self._viewers:
            for curve in viewer.curves if viewer.on_current_pane else ():
                if len(curve.series):
                    yield curve.series

    def _changed(self) -> None:
        for viewer in self._viewers:
            viewer.view_changed()
