"""Rasterize curves: extremes per column of dots, columns of dots as bits, bits as characters.

A cell is one byte of bits and a column of cells one number: a vertical stroke is the difference of
two masks, and drawing one curve over another is arithmetic on the whole image.
"""

import math
import os
import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from pvtool.dashboard.plot.axes import Scale
from pvtool.dashboard.plot.series import Extent, Track
from pvtool_core.errors import UsageError

Span = Extent | None
Stroke = tuple[int, int] | None
_DENSE_POINTS = 4  # per column of dots


@dataclass(frozen=True)
class Glyphs:
    """Character set of a plot style.

    `columns` holds the bits of each column of dots in a cell, bottom up.
    """

    columns: tuple[tuple[int, ...], ...]
    solid: str
    dotted: str
    rule: str
    grid: str
    cursor: str
    point: str
    gap: str

    @property
    def dot_columns(self) -> int:
        return len(self.columns)

    @property
    def dot_rows(self) -> int:
        return len(self.columns[0])


def _merge_left(bits: int) -> int:
    """Return Braille bits with the right column merged into the left one."""
    return bits & 0x47 | (bits & 0x38) >> 3 | (bits & 0x80) >> 1


def _braille() -> Glyphs:
    solid = "".join(chr(0x2800 + bits) for bits in range(256))
    dotted = "".join(chr(0x2800 + _merge_left(bits)) for bits in range(256))
    return Glyphs(((0x40, 4, 2, 1), (0x80, 0x20, 0x10, 8)), solid, dotted, "─", "·", "│", "●", "×")


def _blocks() -> Glyphs:
    return Glyphs(((1, 2), (4, 8)), " ▖▘▌▗▄▚▙▝▞▀▛▐▟▜█", " ▖▘▌▖▖▌▌▘▌▘▌▌▌▌▌", "─", "·", "│", "●", "×")


def _ascii() -> Glyphs:
    return Glyphs(((1, 2, 4),), " .-|'|||", " ,~:`:::", "-", " ", "|", "o", "x")


_GLYPHS = {"braille": _braille, "blocks": _blocks, "ascii": _ascii}


@lru_cache
def glyphs_named(name: str) -> Glyphs:
    """Return the glyphs of a plot style. Raises UsageError if the name is unknown."""
    if name not in _GLYPHS:
        raise UsageError(f"Invalid PV_PLOT {name!r}.", f"Use {', '.join(_GLYPHS)}.")
    return _GLYPHS[name]()


def configured_glyphs() -> Glyphs:
    """Return the glyphs selected by PV_PLOT. [default: braille]"""
    return glyphs_named(os.environ.get("PV_PLOT") or "braille")


def column_edges(positions: "array[float]", first: float, last: float, count: int) -> list[int]:
    """Return the index of the first point of each of `count` columns, and the end of the last."""
    width, found = (last - first) / count, [bisect_left(positions, first)]
    for column in range(1, count):
        found.append(bisect_left(positions, first + column * width, found[-1]))
    return [*found, bisect_right(positions, last, found[-1])]


def is_dense(positions: "array[float]", zero: float, shown: Extent, count: int) -> bool:
    """Return whether `count` columns have too many points to draw their extremes."""
    start, stop = column_edges(positions, shown[0] + zero, shown[1] + zero, 1)
    return stop - start >= _DENSE_POINTS * count


def spans(
    track: Track,
    positions: "array[float]",
    edges: list[int],
    first: float,
    width: float,
    log: bool,
    mean: bool = False,
) -> list[Span]:
    """Return minimum and maximum of each column, or the mean twice.

    Columns without points contain the interpolated line.
    """
    done = len(track)
    within = _mean if mean else Track.extent
    return [
        (within(track, start, min(stop, done), log) if start < done else None)
        if start < stop
        else _interpolate(track.values, positions, start, first + (column + 0.5) * width, log)
        for column, (start, stop) in enumerate(pairwise(edges))
    ]


def _mean(track: Track, start: int, stop: int, positive: bool) -> Span:
    inside = track.values[start:stop]
    numbers = (
        [value for value in inside if not math.isnan(value)]
        if track.has_gap(start, stop)
        else inside
    )
    mean = sum(numbers) / len(numbers) if numbers else 0.0
    return (mean, mean) if numbers and (mean > 0 or not positive) else None


def _interpolate(
    values: "array[float]", positions: "array[float]", index: int, x: float, log: bool
) -> Span:
    """Return the value at `x`, just before point `index`; None at gaps and beyond the ends."""
    if not 0 < index < len(values):
        return None
    before, after = values[index - 1], values[index]
    share = (x - positions[index - 1]) / (positions[index] - positions[index - 1])
    if log:
        y = before ** (1 - share) * after**share if before > 0 and after > 0 else math.nan
    else:
        y = before + (after - before) * share
    return None if math.isnan(y) else (y, y)


def gap_columns(track: Track, edges: list[int]) -> set[int]:
    """Return the columns with gaps."""
    if not track.has_gap(edges[0], edges[-1]):
        return set()
    return {
        column for column, (start, stop) in enumerate(pairwise(edges)) if track.has_gap(start, stop)
    }


def strokes(found: Sequence[Span], scale: Scale, height: int, broken: set[int]) -> list[Stroke]:
    """Return the lowest and highest dot of each column, counted from the bottom.

    Neighbouring columns are connected except after `broken` columns. The scale contains all spans.
    """
    base, factor = (
        scale.transform(scale.low),
        (height - 1) / (scale.transform(scale.high) - scale.transform(scale.low)),
    )
    drawn: list[Stroke] = []
    before: Stroke = None
    for column, span in enumerate(found):
        if span is None:
            before = None
        else:
            below, above = (math.log10(span[0]), math.log10(span[1])) if scale.log else span
            low, high = int((below - base) * factor + 0.5), int((above - base) * factor + 0.5)
            if before and column not in broken:
                low, high = min(low, before[1] + 1), max(high, before[0] - 1)
            before = (low, high)
        drawn.append(before)
    return drawn


@lru_cache(maxsize=64)
def _masks(bits: tuple[int, ...], rows: int) -> list[int]:
    """Return a column of cells filled up to each height in dots; the lowest byte is the bottom."""
    masks = [0]
    for row in range(rows):
        for bit in bits:
            masks.append(masks[-1] | bit << 8 * row)
    return masks


def layer(drawn: Sequence[Stroke], glyphs: Glyphs, rows: int) -> bytes:
    """Return the cells of a curve, column by column, each from the top."""
    masks = [_masks(bits, rows) for bits in glyphs.columns]
    columns = bytearray()
    for start in range(0, len(drawn), glyphs.dot_columns):
        cells = 0
        for mask, stroke in zip(masks, drawn[start : start + glyphs.dot_columns], strict=True):
            if stroke:
                cells |= mask[stroke[1] + 1] ^ mask[stroke[0]]
        columns += cells.to_bytes(rows, "big")
    return bytes(columns)


class Canvas:
    """Stack of layers of cells; later layers cover earlier ones, as a cell has one colour."""

    def __init__(self, columns: int, rows: int) -> None:
        self._columns, self._rows = columns, rows
        self._cells = self._owners = 0

    def put(self, cells: bytes, owner: int) -> None:
        """Draw `cells` over the canvas as those of `owner`, a number above zero."""
        covered = int.from_bytes(cells.translate(b"\0" + b"\xff" * 255), "big")
        owned = int.from_bytes(cells.translate(b"\0" + bytes([owner]) * 255), "big")
        self._cells = self._cells & ~covered | int.from_bytes(cells, "big")
        self._owners = self._owners & ~covered | owned

    def segments(self) -> Iterator[list[tuple[int, int, bytes]]]:
        """Yield the segments of each row from the top: owner (0 if empty), first column, cells."""
        size = self._columns * self._rows
        cells, owners = self._cells.to_bytes(size, "big"), self._owners.to_bytes(size, "big")
        for row in range(self._rows):
            inside = cells[row :: self._rows]
            yield [
                (match[0][0], match.start(), inside[match.start() : match.end()])
                for match in _SEGMENT.finditer(owners[row :: self._rows])
            ]


_SEGMENT = re.compile(rb"(.)\1*", re.DOTALL)


def cell_text(cells: bytes, characters: str) -> str:
    return "".join(map(characters.__getitem__, cells))
