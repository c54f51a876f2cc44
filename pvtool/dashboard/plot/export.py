"""Curves on paper: numbers as CSV, and a sheet of small plots as PNG, drawn at twice its size."""

import csv
import io
from array import array
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from itertools import count, groupby
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from pvtool.dashboard.plot import axes, raster
from pvtool.dashboard.plot.axes import Scale
from pvtool.dashboard.plot.raster import Span
from pvtool.dashboard.plot.series import Extent, Series, Track
from pvtool.dashboard.plot.view import Curve, View
from pvtool_core.files import replace_file

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont

_SCALE = 2
_FINER = 2  # drawn finer than it is kept, for smooth edges
_PANEL = (460, 250)
_MARGIN = (58, 34, 14, 30)  # left, top, right, bottom of the curves within a panel
_INK, _FAINT, _GRID, _GAP = "#333333", "#777777", "#e4e4e4", "#c0392b"
_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
)  # told apart by all eyes, after Okabe and Ito


@contextmanager
def new_files(folder: Path, stem: str, suffixes: Sequence[str]) -> Generator[list[Path]]:
    """Reserve new files `stem` + suffix, or `stem-curves-2` and so on if one exists: nothing is overwritten.

    They are removed if the body fails. Raises OSError.
    """
    for number in count(1):
        name = stem if number == 1 else f"{stem}-curves-{number}"
        paths = [folder / f"{name}{suffix}" for suffix in suffixes]
        made: list[Path] = []
        try:
            for path in paths:
                path.open("x").close()
                made.append(path)
        except FileExistsError:
            _remove(made)
            continue
        except OSError:
            _remove(made)
            raise
        try:
            yield paths
        except BaseException:
            _remove(made)
            raise
        return


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def write_csv(path: Path, series: Mapping[str, Series]) -> None:
    """A row for each step with its time, a column for each series: its last number there, or nothing.

    The time is that of the first of the series that has the step. The series may grow meanwhile.
    """
    kept = deepcopy(dict(series))
    columns = [dict(zip(each.steps, each.raw.values, strict=False)) for each in kept.values()]
    times: dict[float, float] = {}
    for each in reversed(kept.values()):
        times |= zip(reversed(each.steps), reversed(each.times), strict=False)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "time", *series])
    for step in sorted(times):
        writer.writerow(
            [_plain(step), _plain(times[step]), *(_plain(column.get(step)) for column in columns)]
        )
    replace_file(path, text.getvalue().encode())


def _plain(number: float | None) -> str:
    if number is None or isnan(number):
        return ""
    return repr(int(number)) if number == int(number) else repr(number)


def write_png(path: Path, title: str, panels: Mapping[str, Sequence[Curve]], view: View) -> None:
    """A sheet with one plot for each of `panels`: the part and the axis of `view`, smoothed as the series are.

    The series may grow meanwhile.
    """
    kept = deepcopy(dict(panels))
    drawn = {
        name: curves for name, curves in kept.items() if any(len(curve.series) for curve in curves)
    }
    across = 1 if len(drawn) == 1 else 2
    sheet = _Sheet(across * _PANEL[0], 44 + max(-(-len(drawn) // across), 1) * _PANEL[1])
    sheet.write((16, 12), title, 17, _INK)
    smoothed = any(curve.series.smoothed for curves in drawn.values() for curve in curves)
    about = [
        "by step" if view.axis == "step" else "by time",
        *([f"smoothed {view.weight:g}"] if smoothed else []),
    ]
    sheet.write((sheet.width - 14, 16), " · ".join(about), 11, _FAINT, "ra")
    for index, (name, curves) in enumerate(drawn.items()):
        corner = index % across * _PANEL[0], 44 + index // across * _PANEL[1]
        _Panel(sheet, corner, view).draw(name, curves)
    replace_file(path, sheet.png())


class _Sheet:
    """A white picture, measured in points of the finished size."""

    def __init__(self, width: int, height: int) -> None:
        from PIL import Image, ImageDraw

        self.width = width
        self._fine = _SCALE * _FINER
        self._image = Image.new("RGB", (width * self._fine, height * self._fine), "white")
        self._draw = ImageDraw.Draw(self._image)

    def write(
        self, at: tuple[float, float], words: str, size: float, colour: str, anchor: str = "la"
    ) -> float:
        """Write `words`, and say how wide they are."""
        font = _font(size * self._fine)
        self._draw.text(self._points(at), words, colour, font, anchor)
        return self._draw.textlength(words, font) / self._fine

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        fine = [self._points(point) for point in points]
        self._draw.line(fine, colour, round(width * self._fine), "curve")

    def png(self) -> bytes:
        written = io.BytesIO()
        self._image.reduce(_FINER).save(written, "PNG")
        return written.getvalue()

    def _points(self, at: tuple[float, float]) -> tuple[float, float]:
        return at[0] * self._fine, at[1] * self._fine


class _Panel:
    """One small plot, at `corner` of the sheet."""

    def __init__(self, sheet: _Sheet, corner: tuple[int, int], view: View) -> None:
        self.sheet, self.view = sheet, view
        self.left, self.top = corner[0] + _MARGIN[0], corner[1] + _MARGIN[1]
        self.right, self.bottom = (
            corner[0] + _PANEL[0] - _MARGIN[2],
            corner[1] + _PANEL[1] - _MARGIN[3],
        )

    def draw(self, name: str, curves: Sequence[Curve]) -> None:
        first, last = self._range(curves)
        columns = (self.right - self.left) * _SCALE
        lines = [
            (
                _COLOURS[index % len(_COLOURS)],
                curve,
                track,
                pale,
                self._spans(curve.series, track, first, last, columns, mean),
            )
            for index, curve in enumerate(curves)
            for track, pale, mean in self._tracks(curve, first, last, columns)
        ]
        scale = _scale([span for *_, spans in lines for span in spans if span])
        if scale is None:
            return
        self._axes(scale, first, last)
        self._gaps(curves, first, last, columns)
        for colour, curve, _, pale, spans in sorted(lines, key=lambda line: not line[3]):
            self._curve(
                spans,
                scale,
                _paler(colour) if pale else colour,
                curve.kind == "overlay" and not pale,
                pale,
            )
        self._legend(name, curves)

    def _range(self, curves: Sequence[Curve]) -> Extent:
        """What the view shows, or all of these curves."""
        found = [extent for curve in curves if (extent := curve.series.extent(self.view.axis))]
        first, last = self.view.range or (
            min(low for low, _ in found),
            max(high for _, high in found),
        )
        return (first, last) if first < last else (first - 0.5, first + 0.5)

    def _tracks(
        self, curve: Curve, first: float, last: float, columns: int
    ) -> Iterator[tuple[Track, bool, bool]]:
        """What to draw of a curve; whether palely, behind; and whether as the mean of each column."""
        series, smooth = curve.series, curve.series.smoothed
        axis = self.view.axis
        dense = raster.is_dense(series.positions(axis), series.zero(axis), (first, last), columns)
        yield (smooth.track if smooth else series.raw), False, dense
        if curve.kind == "main" and (self.view.raw if smooth else dense):
            yield series.raw, True, False

    def _spans(
        self, series: Series, track: Track, first: float, last: float, columns: int, mean: bool
    ) -> list[Span]:
        positions, zero, at = self._edges(series, first, last, columns)
        return raster.spans(
            track, positions, at, first + zero, (last - first) / columns, log=False, mean=mean
        )

    def _edges(
        self, series: Series, first: float, last: float, count: int
    ) -> tuple["array[float]", float, list[int]]:
        positions, zero = series.positions(self.view.axis), series.zero(self.view.axis)
        return positions, zero, raster.edges(positions, first + zero, last + zero, count)

    def _gaps(self, curves: Sequence[Curve], first: float, last: float, count: int) -> None:
        """A red cross on the axis wherever a value is no number."""
        for curve in curves:
            for column in raster.gap_columns(
                curve.series.raw, self._edges(curve.series, first, last, count)[2]
            ):
                x, y = self.left + (column + 0.5) / _SCALE, self.bottom
                self.sheet.line([(x - 3, y - 3), (x + 3, y + 3)], _GAP, 1.25)
                self.sheet.line([(x - 3, y + 3), (x + 3, y - 3)], _GAP, 1.25)

    def _axes(self, scale: Scale, first: float, last: float) -> None:
        for tick, label in zip(scale.ticks, scale.labels(), strict=True):
            y = self._height(scale, tick)
            self.sheet.line([(self.left, y), (self.right, y)], _GRID, 0.75)
            self.sheet.write((self.left - 7, y), label, 10, _FAINT, "rm")
        for tick in axes.ticks_along(first, last, self.view.axis, 5):
            x = self.left + (tick - first) / (last - first) * (self.right - self.left)
            self.sheet.line([(x, self.bottom), (x, self.bottom + 4)], _FAINT, 0.75)
            self.sheet.write(
                (x, self.bottom + 7), axes.along(tick, self.view.axis), 10, _FAINT, "ma"
            )
        self.sheet.line([(self.left, self.bottom), (self.right, self.bottom)], _FAINT, 0.75)

    def _curve(
        self, spans: list[Span], scale: Scale, colour: str, dashed: bool, pale: bool
    ) -> None:
        """Up and down through each column's extremes; broken at gaps, and in dashes for another run."""
        for there, columns in groupby(
            enumerate(spans), lambda item: item[1] is not None and _inked(item[0], dashed)
        ):
            if not there:
                continue
            points: list[tuple[float, float]] = []
            for column, span in columns:
                x = self.left + (column + 0.5) / _SCALE
                points += [(x, self._height(scale, value)) for value in dict.fromkeys(span or ())]
            self.sheet.line(
                points if len(points) > 1 else [*points, *points], colour, 0.75 if pale else 1.5
            )

    def _legend(self, name: str, curves: Sequence[Curve]) -> None:
        x, y = float(self.left), self.top - 18
        x += self.sheet.write((x, y), name, 12, _INK, "lm") + 14
        for index, curve in enumerate(curves if len(curves) > 1 else ()):
            colour = _COLOURS[index % len(_COLOURS)]
            for start in (0, 6, 12) if curve.kind == "overlay" else (0, 4, 8, 12):
                self.sheet.line([(x + start, y), (x + start + 4, y)], colour, 1.5)
            x += self.sheet.write((x + 21, y), curve.label, 11, _FAINT, "lm") + 33

    def _height(self, scale: Scale, value: float) -> float:
        return self.bottom - scale.fraction(value) * (self.bottom - self.top)


@lru_cache(maxsize=8)
def _font(size: float) -> "Font":
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _scale(found: Sequence[Extent]) -> Scale | None:
    if not found:
        return None
    return axes.fit((min(low for low, _ in found), max(high for _, high in found)), None, False, 4)


def _inked(column: int, dashed: bool) -> bool:
    return not dashed or column // 6 % 2 == 0


def _paler(colour: str) -> str:
    return "#" + "".join(f"{(int(colour[at : at + 2], 16) + 3 * 255) // 4:02x}" for at in (1, 3, 5))
