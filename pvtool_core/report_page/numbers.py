"""Numbers as text: all of one row with equally many decimals."""

import math
from collections.abc import Iterable

MISSING = "–"


def known(values: Iterable[float | None]) -> list[float]:
    """Return the values that are finite numbers."""
    return [value for value in values if value is not None and math.isfinite(value)]


def decimals(values: Iterable[float | None]) -> int:
    """Return the number of decimals with which the largest value has four digits, at most 3."""
    largest = max(map(abs, known(values)), default=0.0)
    return max(0, 3 - max(0, math.floor(math.log10(largest)))) if largest else 3


def number(value: float | None, places: int, signed: bool = False) -> str:
    """Return a value with a minus sign, and with `signed` also with a plus sign."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:{'+' if signed else ''}.{places}f}".replace("-", "−")


def count_of(count: int, one: str, several: str = "") -> str:
    """Return a number with its noun: `1 clip`, `2 clips`."""
    return f"{count} {one if count == 1 else several or one + 's'}"


def interval(low: float | None, high: float | None, places: int, signed: bool = False) -> str:
    """Return `[low, high]`, or nothing without an interval."""
    if len(known((low, high))) < 2:
        return ""
    return f"[{number(low, places, signed)}, {number(high, places, signed)}]"
