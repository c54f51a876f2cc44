"""What all plots of a screen share: which part is looked at, along which axis, how smooth, and where one reads."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal, Protocol

from pvtool.dashboard.plot.axes import round_step
from pvtool.dashboard.plot.series import Axis, Extent, Series

WEIGHTS = (0.0, 0.6, 0.9, 0.97, 0.99)
_NEAREST = 4.0  # steps, or seconds
_ROOMS = 40  # what follows a run grows by such a part of what is shown, or less


@dataclass(frozen=True)
class Curve:
    """A series with its name; an overlay is another run's, drawn so that it differs without colour."""

    label: str
    series: Series
    kind: Literal["main", "overlay"] = "main"


class Viewer(Protocol):
    """Whoever draws by a view."""

    @property
    def curves(self) -> Sequence[Curve]: ...

    @property
    def in_sight(self) -> bool: ...

    def view_changed(self) -> None: ...

    def weight_changed(self) -> None: ...

    def cursor_moved(self) -> None: ...


class View:
    """A range of None is all there is, and whatever comes. Each change is told to all who draw."""

    def __init__(self, axis: Axis = "step", weight: float = 0.9) -> None:
        self.range: Extent | None = None
        self.axis: Axis = axis
        self.weight = weight
        self.raw = True
        self.live = True  # values may still come
        self.cursor: float | None = None
        self.turn = asyncio.Lock()  # long work is for one viewer at a time
        self._viewers: list[Viewer] = []

    def join(self, viewer: Viewer) -> None:
        self._viewers.append(viewer)

    def leave(self, viewer: Viewer) -> None:
        self._viewers.remove(viewer)

    def shown(self) -> Extent:
        """The range that is drawn. What follows a run has some room for what comes: it moves only when that is full."""
        first, last = self.range or self.whole()
        if self.range is None and last > first:
            room = round_step((last - first) / _ROOMS)
            last = first + ceil((last - first) / room) * room
        return (first, last) if last > first else (first - 0.5, first + 0.5)

    def whole(self) -> Extent:
        """From the first to the last point of any curve."""
        found = [extent for series in self._series() if (extent := series.extent(self.axis))]
        return (
            (min(first for first, _ in found), max(last for _, last in found))
            if found
            else (0.0, 1.0)
        )

    def look(self, first: float, last: float) -> None:
        """Show that range, or as much of it as there are points; all of it is what `fit` does."""
        low, high = self.whole()
        size = max(last - first, min(_NEAREST, high - low))
        first = min(max(first, low), high - size)
        self.range = None if size >= high - low else (first, first + size)
        self._changed()

    def fit(self) -> None:
        """Show everything and follow what comes; stop reading."""
        self.range = self.cursor = None
        self._changed()

    def zoom(self, factor: float, around: float | None = None) -> None:
        """Show `1 / factor` of the range, keeping `around` (the cursor, or else the newest point) in its place."""
        first, last = self.shown()
        anchor = (
            around
            if around is not None
            else self.cursor
            if self.cursor is not None
            else self.whole()[1]
        )
        anchor = min(max(anchor, first), last)
        self.look(anchor - (anchor - first) / factor, anchor + (last - anchor) / factor)

    def pan(self, share: float) -> None:
        """Move by that share of the range."""
        first, last = self.shown()
        if self.range:
            self.look(first + share * (last - first), last + share * (last - first))

    def turn_axis(self) -> None:
        """From steps to time or back, looking at the same points."""
        old, new = self.axis, self._other_axis()
        longest = max(self._series(), key=len, default=None)

        def turned(x: float) -> float:
            assert longest is not None  # there is no range and no cursor without a point
            return longest.position(longest.nearest(x, old), new)

        self.axis = new
        self.cursor = None if self.cursor is None else turned(self.cursor)
        if self.range:
            self.look(turned(self.range[0]), turned(self.range[1]))
        self._changed()

    def smooth_more(self) -> None:
        """The next of the weights, and after the last none."""
        self.weight = next((weight for weight in WEIGHTS if weight > self.weight), 0.0)
        for viewer in self._viewers:
            viewer.weight_changed()

    def turn_raw(self) -> None:
        self.raw = not self.raw
        self._changed()

    def read(self, x: float | None) -> None:
        """Put the cursor there, or take it away."""
        if x != self.cursor:
            self.cursor = x
            for viewer in self._viewers:
                viewer.cursor_moved()

    def step_cursor(self, direction: int, curves: Sequence[Curve], cell: float) -> None:
        """Read the next value, or the one about a `cell` on where values lie closer than that.

        The first is the newest in view, or the one at the edge where the cursor went out of view. The view follows
        the cursor.
        """
        series = next((curve.series for curve in curves if len(curve.series)), None)
        if series is None:
            return
        first, last = self.shown()
        if self.cursor is not None and first <= self.cursor <= last:
            x = self._next(series, self.cursor, direction, cell)
        else:
            x = self._in_view(
                series, first if self.cursor is not None and self.cursor < first else last
            )
        self.read(x)
        if not first <= x <= last:
            self._reveal(x)

    def _in_view(self, series: Series, edge: float) -> float:
        """Return the point nearest to an edge of the view, an inner one if there is any."""
        first, last = self.shown()
        index = series.nearest(edge, self.axis)
        found = (
            series.position(i, self.axis)
            for i in (index, index - 1, index + 1)
            if 0 <= i < len(series)
        )
        points = list(found)
        return next((x for x in points if first <= x <= last), points[0])

    def _reveal(self, x: float) -> None:
        """Move the view so that `x` lies a quarter of it from the edge that it was beyond."""
        first, last = self.shown()
        size = last - first
        start = x - size / 4 if x < first else x - 3 * size / 4
        self.look(start, start + size)

    def _next(self, series: Series, x: float, direction: int, cell: float) -> float:
        now = series.nearest(x, self.axis)
        near = series.nearest(series.position(now, self.axis) + direction * cell, self.axis)
        index = near if near != now else min(max(now + direction, 0), len(series) - 1)
        return series.position(index, self.axis)

    def _other_axis(self) -> Axis:
        return "time" if self.axis == "step" else "step"

    def _series(self) -> Iterator[Series]:
        for viewer in self._viewers:
            for curve in viewer.curves if viewer.in_sight else ():
                if len(curve.series):
                    yield curve.series

    def _changed(self) -> None:
        for viewer in self._viewers:
            viewer.view_changed()
