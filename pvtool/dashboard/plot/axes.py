"""Scales, their ticks, and numbers in few letters."""

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
    """From values to a fraction of the height, and where the ticks are."""

    low: float
    high: float
    log: bool
    ticks: Sequence[float]
    unit: float  # of which all ticks are multiples

    def raised(self, value: float) -> float:
        """How high `value` lies, in units of its own."""
        return math.log10(value) if self.log else value

    def fraction(self, value: float) -> float:
        base = self.raised(self.low)
        return (self.raised(value) - base) / (self.raised(self.high) - base)

    def labels(self) -> list[str]:
        return (
            [exponent(tick) for tick in self.ticks]
            if self.log
            else tick_labels(self.ticks, self.unit)
        )


def fit(extent: Extent, bounds: Extent | None, log: bool, intervals: int) -> Scale:
    """A scale of round numbers around `extent`, and around `bounds` where they make sense."""
    return _log_scale(extent, intervals) if log else _linear_scale(extent, bounds, intervals)


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
    """Whole decades, or 1-2-5 within them where there are few."""
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
    """The smallest 1, 2 or 5 times a power of ten that is no less than `least`."""
    power = math.floor(math.log10(least))
    return next(
        step for m in (1, 2, 5, 10) if (step := float(f"{m}e{power}")) >= least * (1 - 1e-9)
    )


def _multiple(k: int, step: float) -> float:
    """`k` steps, rounded to the step's own decimals, so that three times 0.1 is 0.3."""
    return round(k * step, max(0, -math.floor(math.log10(step))))


def ticks_along(first: float, last: float, axis: Axis, most: int) -> list[float]:
    """Round places from `first` to `last` along a step or a time axis, at most `most` or so."""
    least = (last - first) / most
    step = max(1.0, round_step(least)) if axis == "step" else _round_seconds(least)
    return _multiples(first, last, step)


def _multiples(first: float, last: float, step: float) -> list[float]:
    """All multiples of `step` from `first` to `last`."""
    return [
        _multiple(k, step)
        for k in range(math.ceil(first / step - 1e-9), math.floor(last / step + 1e-9) + 1)
    ]


def _round_seconds(least: float) -> float:
    if least <= _ROUND_SECONDS[0]:
        return 1.0
    found = next((seconds for seconds in _ROUND_SECONDS if seconds >= least), None)
    return float(found) if found else _DAY * max(1.0, round_step(least / _DAY))


def along(x: float, axis: Axis) -> str:
    """A place on the axis in words: `1 240` or `1h05m`."""
    return grouped(x) if axis == "step" else duration(x)


def grouped(number: float) -> str:
    return f"{number:,.0f}".replace(",", " ")


def duration(seconds: float) -> str:
    """`45s`, `1h30m`, `2d06h`: from the largest unit that is there to the smallest."""
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
    """All ticks with the same decimals, no more than their unit has."""
    largest = max(abs(ticks[0]), abs(ticks[-1]))
    if largest >= 1e12 or largest < 1e-3:
        return [exponent(tick) for tick in ticks]
    fitting = (
        (power, letter)
        for power, letter in _PREFIXES
        if unit >= 10 ** (power - 1) and largest >= 10**power
    )
    power, letter = next(fitting, (0, ""))
    decimals = max(0, power - math.floor(math.log10(unit) + 1e-9))
    return [f"{tick / 10**power:.{decimals}f}{letter}" for tick in ticks]


def exponent(number: float) -> str:
    """`1e-4` rather than `0.0001`, and plainly where that is short."""
    if number == 0 or 1e-2 <= abs(number) < 1e4:
        return f"{number:g}"
    mantissa, power = f"{number:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"


def short(number: float) -> str:
    """A value to read: three figures or so."""
    size = abs(number)
    if size >= 1e6 or 0 < size < 1e-3:
        return exponent(number)
    decimals = 3 if size < 1 else 2 if size < 10 else 1 if size < 1000 else 0
    return f"{number:,.{decimals}f}".replace(",", " ")
