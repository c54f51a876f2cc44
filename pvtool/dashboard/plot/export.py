"""Export curves: numbers as CSV and plots as PNG at twice the display size."""

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
_OVERSAMPLING = 2  # for smooth edges
_PANEL = (460, 250)
_MARGIN = (58, 34, 14, 30)  # left, top, right, bottom of the axes within a panel
_INK, _MUTED, _GRID, _GAP = "#333333", "#777777", "#e4e4e4", "#c0392b"
# Palette for all kinds of colour vision by Okabe and Ito.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


@contextmanager
def new_files(folder: Path, stem: str, suffixes: Sequence[str]) -> Generator[list[Path]]:
    """Create new empty files `stem` + suffix, or `stem-curves-2` and so on if one exists.

    Existing files are never overwritten. The new files are removed if the body fails. Raises
    OSError.
    """
    for number in count(1):
        name = stem if number == 1 else f"{stem}-curves-{number}"
        paths = [folder / f"{name}{suffix}" for suffix in suffixes]
        created: list[Path] = []
        try:
            for path in paths:
                path.open("x").close()
                created.append(path)
        except FileExistsError:
            _remove(created)
            continue
        except OSError:
            _remove(created)
            raise
        try:
            yield paths
        except BaseException:
            _remove(created)
            raise
        return


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def write_csv(path: Path, series: Mapping[str, Series]) -> None:
    """Write a row per step with its time and a column per series, empty without a value.

    The time is that of the first series with the step. The series may grow meanwhile.
    """
    snapshot = deepcopy(dict(series))
    columns = [dict(zip(one.steps, one.raw.values, strict=False)) for one in snapshot.values()]
    times: dict[float, float] = {}
    for one in reversed(snapshot.values()):
        times |= zip(reversed(one.steps), reversed(one.times), strict=False)
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
    """Draw one plot per panel, with range, axis and smoothing of the view and the series.

    The series may grow meanwhile.
    """
    snapshot = deepcopy(dict(panels))
    drawn = {
        name: curves
        for name, curves in snapshot.items()
        if any(len(curve.series) for curve in curves)
    }
    columns = 1 if len(drawn) == 1 else 2
    sheet = _Sheet(columns * _PANEL[0], 44 + max(-(-len(drawn) // columns), 1) * _PANEL[1])
    sheet.write((16, 12), title, 17, _INK)
    smoothed = any(curve.series.smoothed for curves in drawn.values() for curve in curves)
    caption = [
        "by step" if view.axis == "step" else "by time",
        *([f"smoothed {view.weight:g}"] if smoothed else []),
    ]
    sheet.write((sheet.width - 14, 16), " · ".join(caption), 11, _MUTED, "ra")
    for index, (name, curves) in enumerate(drawn.items()):
        corner = index % columns * _PANEL[0], 44 + index // columns * _PANEL[1]
        _Panel(sheet, corner, view).draw(name, curves)
    replace_file(path, sheet.png())


class _Sheet:
    """White image, measured in points of the final size."""

    def __init__(self, width: int, height: int) -> None:
        from PIL import Image, ImageDraw

        self.width = width
        self._pixels_per_point = _SCALE * _OVERSAMPLING
        self._image = Image.new(
            "RGB", (width * self._pixels_per_point, height * self._pixels_per_point), "white"
        )
        self._draw = ImageDraw.Draw(self._image)

    def write(
        self, at: tuple[float, float], text: str, size: float, colour: str, anchor: str = "la"
    ) -> float:
        """Draw text and return its width."""
        font = _font(size * self._pixels_per_point)
        self._draw.text(self._to_pixels(at), text, colour, font, anchor)
        return self._draw.textlength(text, font) / self._pixels_per_point

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        pixels = [self._to_pixels(point) for point in points]
        self._draw.line(pixels, colour, round(width * self._pixels_per_point), "curve")

    def dot(self, at: tuple[float, float], colour: str, radius: float) -> None:
        x, y = self._to_pixels(at)
        size = radius * self._pixels_per_point
        self._draw.ellipse((x - size, y - size, x + size, y + size), colour)

    def png(self) -> bytes:
        buffer = io.BytesIO()
        self._image.reduce(_OVERSAMPLING).save(buffer, "PNG")
        return buffer.getvalue()

    def _to_pixels(self, at: tuple[float, float]) -> tuple[float, float]:
        return at[0] * self._pixels_per_point, at[1] * self._pixels_per_point


class _Panel:
    """Plot at `corner` of the sheet."""

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
                light,
                self._spans(curve.series, track, first, last, columns, mean),
            )
            for index, curve in enumerate(curves)
            for track, light, mean in self._tracks(curve, first, last, columns)
        ]
        scale = _scale([span for *_, spans in lines for span in spans if span])
        if scale is None:
            return
        self._axes(scale, first, last)
        self._gaps(curves, first, last, columns)
        for colour, curve, _, light, spans in sorted(lines, key=lambda line: not line[3]):
            self._curve(
                spans,
                scale,
                _lighten(colour) if light else colour,
                curve.kind == "overlay" and not light,
                light,
            )
        for index, curve in enumerate(curves):
            if curve.series.marked:
                self._dots(curve.series, scale, _COLOURS[index % len(_COLOURS)], first, last)
        self._legend(name, curves)

    def _dots(self, series: Series, scale: Scale, colour: str, first: float, last: float) -> None:
        """Mark each point in the visible range."""
        for index, value in enumerate(series.raw.values):
            share = (series.position(index, self.view.axis) - first) / (last - first)
            if 0 <= share <= 1 and not isnan(value):
                x = self.left + share * (self.right - self.left)
                self.sheet.dot((x, self._y(scale, value)), colour, 2.5)

    def _range(self, curves: Sequence[Curve]) -> Extent:
        """Return the visible range of the view, or the range of these curves."""
        found = [extent for curve in curves if (extent := curve.series.extent(self.view.axis))]
        first, last = self.view.range or (
            min(low for low, _ in found),
            max(high for _, high in found),
        )
        return (first, last) if first < last else (first - 0.5, first + 0.5)

    def _tracks(
        self, curve: Curve, first: float, last: float, columns: int
    ) -> Iterator[tuple[Track, bool, bool]]:
        """Yield the tracks to draw: track, whether it is light, whether columns are averaged."""
        series, smooth = curve.series, curve.series.smoothed
        axis = self.view.axis
        dense = raster.is_dense(series.positions(axis), series.zero(axis), (first, last), columns)
        yield (smooth.track if smooth else series.raw), False, dense
        if curve.kind == "main" and (self.view.raw if smooth else dense):
            yield series.raw, True, False

    def _spans(
        self, series: Series, track: Track, first: float, last: float, columns: int, mean: bool
    ) -> list[Span]:
        positions, zero, edges = self._edges(series, first, last, columns)
        return raster.spans(
            track, positions, edges, first + zero, (last - first) / columns, log=False, mean=mean
        )

    def _edges(
        self, series: Series, first: float, last: float, count: int
    ) -> tuple["array[float]", float, list[int]]:
        positions, zero = series.positions(self.view.axis), series.zero(self.view.axis)
        return positions, zero, raster.column_edges(positions, first + zero, last + zero, count)

    def _gaps(self, curves: Sequence[Curve], first: float, last: float, count: int) -> None:
        """Mark values that are not finite by red crosses on the axis."""
        for curve in curves:
            for column in raster.gap_columns(
                curve.series.raw, self._edges(curve.series, first, last, count)[2]
            ):
                x, y = self.left + (column + 0.5) / _SCALE, self.bottom
                self.sheet.line([(x - 3, y - 3), (x + 3, y + 3)], _GAP, 1.25)
                self.sheet.line([(x - 3, y + 3), (x + 3, y - 3)], _GAP, 1.25)

    def _axes(self, scale: Scale, first: float, last: float) -> None:
        for tick, label in zip(scale.ticks, scale.labels(), strict=True):
            y = self._y(scale, tick)
            self.sheet.line([(self.left, y), (self.right, y)], _GRID, 0.75)
            self.sheet.write((self.left - 7, y), label, 10, _MUTED, "rm")
        for tick in axes.ticks_along(first, last, self.view.axis, 5):
            x = self.left + (tick - first) / (last - first) * (self.right - self.left)
            self.sheet.line([(x, self.bottom), (x, self.bottom + 4)], _MUTED, 0.75)
            self.sheet.write(
                (x, self.bottom + 7), axes.position_label(tick, self.view.axis), 10, _MUTED, "ma"
            )
        self.sheet.line([(self.left, self.bottom), (self.right, self.bottom)], _MUTED, 0.75)

    def _curve(
        self, spans: list[Span], scale: Scale, colour: str, dashed: bool, light: bool
    ) -> None:
        """Draw a line through the extremes of each column; gaps are left out, other runs dashed."""
        for drawn, columns in groupby(
            enumerate(spans), lambda item: item[1] is not None and _in_dash(item[0], dashed)
        ):
            if not drawn:
                continue
            points: list[tuple[float, float]] = []
            for column, span in columns:
                x = self.left + (column + 0.5) / _SCALE
                points += [(x, self._y(scale, value)) for value in dict.fromkeys(span or ())]
            self.sheet.line(
                points if len(points) > 1 else [*points, *points], colour, 0.75 if light else 1.5
            )

    def _legend(self, name: str, curves: Sequence[Curve]) -> None:
        x, y = float(self.left), self.top - 18
        x += self.sheet.write((x, y), name, 12, _INK, "lm") + 14
        for index, curve in enumerate(curves if len(curves) > 1 else ()):
            colour = _COLOURS[index % len(_COLOURS)]
            for start in (0, 6, 12) if curve.kind == "overlay" else (0, 4, 8, 12):
                self.sheet.line([(x + start, y), (x + start + 4, y)], colour, 1.5)
            x += self.sheet.write((x + 21, y), curve.label, 11, _MUTED, "lm") + 33

    def _y(self, scale: Scale, value: float) -> float:
        return self.bottom - scale.fraction(value) * (self.bottom - self.top)


@lru_cache(maxsize=8)
def _font(size: float) -> "Font":
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _scale(found: Sequence[Extent]) -> Scale | None:
    if not found:
        return None
    return axes.fit((min(low for low, _ in found), max(high for _, high in found)), None, False, 4)


def _in_dash(column: int, dashed: bool) -> bool:
    return not dashed or column // 6 % 2 == 0


def _lighten(colour: str) -> str:
    return "#" + "".join(f"{(int(colour[at : at + 2], 16) + 3 * 255) // 4:02x}" for at in (1, 3, 5))
