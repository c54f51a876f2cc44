"""Scales, ticks and number formats of plots."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pvtool.dashboard.plot.series import SMALLEST, Axis, Extent

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_ROUND_SECONDS = (
    1,
    2,
    5,
    10,
    20,
    30,
    60,
    120,
    300,
    600,
    1200,
    1800,
    3600,
    7200,
    10800,
    21600,
    43200,
)
_PREFIXES = ((9, "G"), (6, "M"), (3, "k"))


@dataclass(frozen=True)
class Scale:
    """Scale that maps values to fractions of the height, with its ticks."""

    low: float
    high: float
    log: bool
    ticks: Sequence[float]
    unit: float  # all ticks are multiples of it

    def transform(self, value: float) -> float:
        """Return the position of `value` in units of the scale: the value or its logarithm."""
        return math.log10(value) if self.log else value

    def fraction(self, value: float) -> float:
        base = self.transform(self.low)
        return (self.transform(value) - base) / (self.transform(self.high) - base)

    def labels(self) -> list[str]:
        return (
            [format_exponent(tick) for tick in self.ticks]
            if self.log
            else tick_labels(self.ticks, self.unit)
        )


def fit(extent: Extent, bounds: Extent | None, log: bool, intervals: int) -> Scale:
    """Return a scale with round limits around `extent`, and around `bounds` if it is linear."""
    return _log_scale(extent, intervals) if log else _linear_scale(extent, bounds, intervals)


def gauge(extent: Extent, total: float, intervals: int) -> Scale:
    """Return a scale from zero to a total, with ticks at its quarters, its half or its end."""
    high = max(total, extent[1])
    parts = 4 if intervals >= 4 else 2 if intervals >= 2 else 1
    unit = 1.0 if high >= 10 else round_step(high / 100)
    return Scale(0.0, high, False, [high * k / parts for k in range(parts + 1)], unit)


def _linear_scale(extent: Extent, bounds: Extent | None, intervals: int) -> Scale:
    low, high = (min(extent[0], bounds[0]), max(extent[1], bounds[1])) if bounds else extent
    largest = max(abs(low), abs(high))
    if high - low <= max(1e-9 * largest, SMALLEST):
        margin = largest / 2 if largest > SMALLEST else 1.0
        low, high = low - margin, high + margin
    unit = round_step((high - low) / 10)
    low, high = (
        _multiple(math.floor(low / unit + 1e-6), unit),
        _multiple(math.ceil(high / unit - 1e-6), unit),
    )
    step = round_step((high - low) / intervals)
    ticks = _multiples(low, high, step)
    return Scale(low, high, False, *((ticks, step) if len(ticks) > 1 else ([low, high], unit)))


def _log_scale(extent: Extent, intervals: int) -> Scale:
    """Return a scale of full decades, or of 1-2-5 steps for a short range."""
    first, last = math.floor(math.log10(extent[0]) + 1e-9), math.ceil(math.log10(extent[1]) - 1e-9)
    last = max(last, first + 1)
    every = -(-(last - first) // intervals)
    decades = [float(f"1e{k}") for k in range(first, last + 1, every)]
    if last - first > 2:
        return Scale(float(f"1e{first}"), float(f"1e{last}"), True, decades, 1)
    ticks = [float(f"{m}e{k}") for k in range(first, last + 1) for m in (1, 2, 5)]
    low = max(tick for tick in ticks if tick <= extent[0] * (1 + 1e-9))
    high = min(tick for tick in ticks if tick >= extent[1] * (1 - 1e-9) and tick > low)
    inside = [tick for tick in ticks if low <= tick <= high]
    return Scale(low, high, True, inside if len(inside) <= intervals + 1 else [low, high], 1)


def round_step(least: float) -> float:
    """Return the smallest 1, 2 or 5 times a power of ten that is at least `least`."""
    power = math.floor(math.log10(least))
    return next(
        step for m in (1, 2, 5, 10) if (step := float(f"{m}e{power}")) >= least * (1 - 1e-9)
    )


def _multiple(k: int, step: float) -> float:
    """Return `k` times `step`, rounded to the decimals of the step, so that 3 × 0.1 is 0.3."""
    return round(k * step, max(0, -math.floor(math.log10(step))))


def ticks_along(first: float, last: float, axis: Axis, most: int) -> list[float]:
    """Return at most about `most` round positions from `first` to `last` on an axis."""
    least = (last - first) / most
    step = max(1.0, round_step(least)) if axis == "step" else _round_seconds(least)
    return _multiples(first, last, step)


def _multiples(first: float, last: float, step: float) -> list[float]:
    """Return all multiples of `step` from `first` to `last`."""
    return [
        _multiple(k, step)
        for k in range(math.ceil(first / step - 1e-9), math.floor(last / step + 1e-9) + 1)
    ]


def _round_seconds(least: float) -> float:
    if least <= _ROUND_SECONDS[0]:
        return 1.0
    found = next((seconds for seconds in _ROUND_SECONDS if seconds >= least), None)
    return float(found) if found else _DAY * max(1.0, round_step(least / _DAY))


def position_label(x: float, axis: Axis) -> str:
    """Format a position on the axis: `1 240` or `1h05m`."""
    return group_digits(x) if axis == "step" else format_elapsed(x)


def group_digits(number: float) -> str:
    """Format a number with thousands separated by spaces."""
    return f"{number:,.0f}".replace(",", " ")


def format_elapsed(seconds: float) -> str:
    """Format seconds as `45s`, `1h30m` or `2d06h`, without trailing zero units."""
    left, sign = abs(round(seconds)), "-" if round(seconds) < 0 else ""
    parts: list[tuple[int, str]] = []
    for size, letter in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "m"), (1, "s")):
        count, left = divmod(left, size)
        if count or parts:
            parts.append((count, letter))
        if not left and parts:
            break
    head, *rest = parts or [(0, "s")]
    return sign + f"{head[0]}{head[1]}" + "".join(f"{count:02}{letter}" for count, letter in rest)


def tick_labels(ticks: Sequence[float], unit: float) -> list[str]:
    """Format all ticks with the same number of decimals, no more than their unit has."""
    largest = max(abs(ticks[0]), abs(ticks[-1]))
    if largest >= 1e12 or largest < 1e-3:
        return [format_exponent(tick) for tick in ticks]
    fitting = (
        (power, letter)
        for power, letter in _PREFIXES
        if unit >= 10 ** (power - 1) and largest >= 10**power
    )
    power, letter = next(fitting, (0, ""))
    decimals = max(0, power - math.floor(math.log10(unit) + 1e-9))
    return [f"{tick / 10**power:.{decimals}f}{letter}" for tick in ticks]


def format_exponent(number: float) -> str:
    """Format a number as `1e-4` instead of `0.0001`, and plainly if that is short."""
    if number == 0 or 1e-2 <= abs(number) < 1e4:
        return f"{number:g}"
    mantissa, power = f"{number:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"


def format_value(number: float) -> str:
    """Format a value with about three significant digits."""
    size = abs(number)
    if size >= 1e6 or 0 < size < 1e-3:
        return format_exponent(number)
    decimals = 3 if size < 1 else 2 if size < 10 else 1 if size < 1000 else 0
    return f"{number:,.{decimals}f}".replace(",", " ")
