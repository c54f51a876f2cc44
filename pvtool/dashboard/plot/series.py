"""Values over the steps of a run: compact, smoothed, with fast extremes of any range."""

from array import array
from bisect import bisect_left
from math import inf, isnan, nan
from operator import gt
from typing import Literal

from pvtool_core.store.trend import RECENT_STEPS, Trend, trend_of

Axis = Literal["step", "time"]
Extent = tuple[float, float]

# limits of float32: larger values count as infinite, smaller ones as zero
LARGEST, SMALLEST = 1e38, 1e-37
_BLOCK = 32


class Track:
    """Values in order, with NaN for gaps and the extremes of each block."""

    def __init__(self, code: Literal["d", "f"]) -> None:
        self.values = array(code)
        self.gaps = array("q")
        self._lows = array(code)
        self._highs = array(code)

    def __len__(self) -> int:
        return len(self.values)

    def extent(self, start: int, stop: int, positive: bool = False) -> Extent | None:
        """Return minimum and maximum of values[start:stop], of positive values if `positive`."""
        self.update_blocks()
        first, last = -(-start // _BLOCK), stop // _BLOCK
        if first < last:
            edges = self._numbers(start, first * _BLOCK) + self._numbers(last * _BLOCK, stop)
            low, high = min(self._lows[first:last] + edges), max(self._highs[first:last] + edges)
        else:
            inside = self._numbers(start, stop)
            low, high = min(inside, default=inf), max(inside, default=-inf)
        if positive and low <= 0 < high:
            low = min(value for value in self.values[start:stop] if value > 0)
        return (low, high) if low <= high and not (positive and high <= 0) else None

    def has_gap(self, start: int, stop: int) -> bool:
        return bool(self.gaps) and bisect_left(self.gaps, start) < bisect_left(self.gaps, stop)

    def update_blocks(self) -> None:
        """Compute the extremes of blocks filled since the last call; `extent` does this, too."""
        if len(self.values) < (len(self._lows) + 1) * _BLOCK:
            return
        for block in range(len(self._lows), len(self.values) // _BLOCK):
            inside = self._numbers(block * _BLOCK, (block + 1) * _BLOCK)
            self._lows.append(min(inside, default=inf))
            self._highs.append(max(inside, default=-inf))

    def _numbers(self, start: int, stop: int) -> "array[float]":
        inside = self.values[start:stop]
        if self.gaps and self.has_gap(start, stop):
            return array(self.values.typecode, (value for value in inside if not isnan(value)))
        return inside


class Smoothing:
    """Exponential moving average without bias, as in TensorBoard; gaps remain gaps."""

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.track = Track("f")
        self._last = 0.0
        self._norm = 0.0

    def advance(self, values: "array[float]", limit: int) -> bool:
        """Process at most `limit` more values and return whether all are processed."""
        done, weight, last, norm = len(self.track), self.weight, self._last, self._norm
        add = self.track.values.append
        for index, value in enumerate(values[done : done + limit], done):
            if isnan(value):
                add(nan)
                self.track.gaps.append(index)
            else:
                last, norm = last * weight + value, norm * weight + 1
                add(last / norm)
        self._last, self._norm = last, norm
        self.track.update_blocks()
        return len(self.track) == len(values)


class Series:
    """Values of one quantity, in the order of steps.

    `origin` is the time zero of elapsed time. An `exact` series is a schedule or a measurement and
    is never smoothed. Each point of a `marked` series is drawn as a mark, since it has few.
    """

    def __init__(
        self, origin: float | None = None, *, exact: bool = False, marked: bool = False
    ) -> None:
        self.exact, self.marked = exact, marked
        self.steps = array("d")
        self.times = array("d")
        self.raw = Track("d")
        self.last: float | None = None
        self.origin = origin
        self.smoothed: Smoothing | None = None
        self._pending: Smoothing | None = None

    def __len__(self) -> int:
        return len(self.raw)

    def append(self, step: float, time: float, value: float | None) -> None:
        """Add a point; None and non-finite values are gaps.

        Times never decrease, even if the clock is set back.
        """
        if value is None or not abs(value) <= LARGEST:
            value = nan
            self.raw.gaps.append(len(self.raw.values))
        else:
            self.last = value = value if abs(value) >= SMALLEST else 0.0
        if not self.times:
            self.origin = time if self.origin is None else self.origin
        elif time < self.times[-1]:
            time = self.times[-1]
        self.steps.append(step)
        self.times.append(time)
        self.raw.values.append(value)

    def extend(self, steps: "array[float]", times: "array[float]", values: "array[float]") -> None:
        """Add points with finite values; unusual values or times are added one by one."""
        early = bool(self.times) and times[0] < self.times[-1]
        tiny = min(map(abs, filter(None, values)), default=1.0) < SMALLEST
        if (
            early
            or tiny
            or max(values) > LARGEST
            or min(values) < -LARGEST
            or any(map(gt, times, times[1:]))
        ):
            for point in zip(steps, times, values, strict=True):
                self.append(*point)
            return
        self.origin = times[0] if self.origin is None else self.origin
        self.steps += steps
        self.times += times
        self.raw.values += values
        self.last = values[-1]

    @property
    def trend(self) -> Trend | None:
        """Return mean and direction of the newest steps."""
        return trend_of(self.raw.values[-RECENT_STEPS:])

    def positions(self, axis: Axis) -> "array[float]":
        """Return the positions of the points, ascending; times are absolute."""
        return self.steps if axis == "step" else self.times

    def zero(self, axis: Axis) -> float:
        """Return the position of the zero of the axis."""
        return self.origin or 0.0 if axis == "time" else 0.0

    def extent(self, axis: Axis) -> Extent | None:
        """Return the first and last position on the axis."""
        positions, zero = self.positions(axis), self.zero(axis)
        return (positions[0] - zero, positions[-1] - zero) if len(self) else None

    def position(self, index: int, axis: Axis) -> float:
        return self.positions(axis)[index] - self.zero(axis)

    def nearest(self, x: float, axis: Axis) -> int:
        """Return the index of the point nearest to `x` on the axis. The series must have points."""
        positions, x = self.positions(axis), x + self.zero(axis)
        after = min(bisect_left(positions, x), len(self) - 1)
        before = max(after - 1, 0)
        return before if x - positions[before] < positions[after] - x else after

    def smooth(self, weight: float, limit: int) -> bool:
        """Update `smoothed` by at most `limit` values and return whether it is complete.

        The previous weight remains available until the new one is complete.
        """
        if self.exact or not weight:
            self.smoothed = self._pending = None
            return True
        if self.smoothed and self.smoothed.weight == weight:
            self._pending = None
            return self.smoothed.advance(self.raw.values, limit)
        if self._pending is None or self._pending.weight != weight:
            self._pending = Smoothing(weight)
        if not self._pending.advance(self.raw.values, limit):
            return False
        self.smoothed, self._pending = self._pending, None
        return True
