"""Paint a plot as rows of styled text, independently of the widget."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isnan

from pvtool.dashboard.plot import axes, raster
from pvtool.dashboard.plot.axes import Scale
from pvtool.dashboard.plot.raster import Canvas, Glyphs, Span
from pvtool.dashboard.plot.series import Extent, Series, Track
from pvtool.dashboard.plot.view import Curve, View

StyledText = tuple[str, str]  # text and the name of its style
LETTERS = "ABCDEFGH"
COLOURS = 4
_GUTTER = 5
_GRID = 4


@dataclass(frozen=True)
class Line:
    """A track of a curve with its style."""

    style: str
    track: Track
    series: Series
    dotted: bool = False
    mean: bool = False  # draw the mean of each column, for dense values


@dataclass(frozen=True)
class Picture:
    """A painted plot and the mapping between its cells and values."""

    rows: Sequence[Sequence[StyledText]]
    scale: Scale | None
    first: float
    last: float
    left: int
    columns: int
    height: int

    def cell_of(self, x: float) -> int | None:
        """Return the screen column of `x`, or None outside of the visible range."""
        share = (x - self.first) / (self.last - self.first)
        return (
            self.left + min(int(share * self.columns), self.columns - 1)
            if 0 <= share <= 1
            else None
        )

    def x_of(self, cell: int) -> float:
        """Return the position of the centre of a screen column, limited to the axis."""
        share = (cell - self.left + 0.5) / self.columns
        return self.first + min(max(share, 0.0), 1.0) * (self.last - self.first)

    def row_of(self, value: float, glyphs: Glyphs) -> int | None:
        """Return the screen row of a value, or None outside of the scale."""
        if self.scale is None or (self.scale.log and value <= 0):
            return None
        row = (
            round(self.scale.fraction(value) * (self.height * glyphs.dot_rows - 1))
            // glyphs.dot_rows
        )
        return self.height - 1 - row if 0 <= row < self.height else None


def colour(index: int) -> str:
    return f"plot--curve-{index % COLOURS + 1}"


def lines(curves: Sequence[Curve], view: View, dense: Callable[[Series], bool]) -> list[Line]:
    """Return the lines to draw in order: raw values, then other runs, then smoothed values.

    A dense curve is drawn as the mean of each column; without smoothing, a dim band behind it shows
    the extremes.
    """
    background: list[Line] = []
    overlays: list[Line] = []
    foreground: list[Line] = []
    for index, curve in enumerate(curves):
        series, dotted = curve.series, curve.kind == "overlay"
        track = series.smoothed.track if series.smoothed else series.raw
        mean = dense(series)
        (overlays if dotted else foreground).append(
            Line(colour(index), track, series, dotted, mean)
        )
        if not dotted and (view.raw if series.smoothed else mean):
            background.append(Line(colour(index).replace("curve", "raw"), series.raw, series))
    return [*background, *overlays, *foreground]


@dataclass(frozen=True)
class Painter:
    """Painter of curves into `width` × `height` cells."""

    curves: Sequence[Curve]
    view: View
    bounds: Extent | None
    log: bool
    glyphs: Glyphs
    width: int
    height: int
    total: float | None = None  # of a gauge, whose scale goes from zero to it

    def paint(self) -> Picture:
        first, last = self.view.visible_range()
        drawn = lines(self.curves, self.view, lambda series: self._is_dense(series, first, last))
        # The label width depends on the values, which depend on the columns: start with a guess.
        scale, found, gaps = self._measure(drawn, first, last, self._columns(_GUTTER))
        gutter = max([_GUTTER, *map(len, scale.labels())]) if scale else _GUTTER
        columns = self._columns(gutter)
        if gutter != _GUTTER:
            scale, found, gaps = self._measure(drawn, first, last, columns)
        rows = list(self._rows(drawn, scale, found, gaps, gutter, columns))
        if self.height > 1:
            rows.append(
                self._axis(
                    first,
                    last,
                    gutter,
                    columns,
                    {column // self.glyphs.dot_columns for column in gaps},
                )
            )
        return Picture(rows, scale, first, last, gutter + 1, columns, self._curve_rows)

    def _is_dense(self, series: Series, first: float, last: float) -> bool:
        count = self._columns(_GUTTER) * self.glyphs.dot_columns
        return raster.is_dense(
            series.positions(self.view.axis), series.zero(self.view.axis), (first, last), count
        )

    @property
    def _curve_rows(self) -> int:
        """Return the number of rows without the axis, which is omitted in plots of one row."""
        return max(1, self.height - 1)

    def _columns(self, gutter: int) -> int:
        return max(self.width - gutter - 1 - 2 * (len(self.curves) > 1), 1)

    def _measure(
        self, drawn: Sequence[Line], first: float, last: float, columns: int
    ) -> tuple[Scale | None, list[list[Span]], set[int]]:
        """Return the spans of each line, a common scale, and the columns with non-finite values."""
        count = columns * self.glyphs.dot_columns
        width = (last - first) / count
        found: list[list[Span]] = []
        gaps: set[int] = set()
        edges_of: dict[int, list[int]] = {}
        for line in drawn:
            positions, zero = (
                line.series.positions(self.view.axis),
                line.series.zero(self.view.axis),
            )
            edges = edges_of.get(id(line.series)) or raster.column_edges(
                positions, first + zero, last + zero, count
            )
            edges_of[id(line.series)] = edges
            gaps |= raster.gap_columns(line.series.raw, edges)
            found.append(
                raster.spans(line.track, positions, edges, first + zero, width, self.log, line.mean)
            )
        return self._scale([span for spans in found for span in spans if span]), found, gaps

    def _scale(self, found: Sequence[Extent]) -> Scale | None:
        if not found:
            return None
        extent = min(low for low, _ in found), max(high for _, high in found)
        if self.total and not self.log:
            return axes.gauge(extent, self.total, self._curve_rows // 2)
        return axes.fit(extent, self.bounds, self.log, max(2, self._curve_rows // 3))

    def _rows(
        self,
        drawn: Sequence[Line],
        scale: Scale | None,
        found: Sequence[list[Span]],
        gaps: set[int],
        gutter: int,
        columns: int,
    ) -> Iterator[list[StyledText]]:
        rows = self._curve_rows
        if scale is None:
            yield from self._empty_rows(rows)
            return
        canvas = Canvas(columns, rows)
        for owner, spans in enumerate(found, 1):
            strokes = raster.strokes(spans, scale, rows * self.glyphs.dot_rows, gaps)
            canvas.put(raster.layer(strokes, self.glyphs, rows), owner)
        ticks = self._ticks(scale, rows)
        letters = self._curve_letters(drawn, found, scale, rows)
        marks = self._marks(drawn, scale, columns)
        for row, segments in enumerate(canvas.segments()):
            grid = (self.glyphs.grid.ljust(_GRID) if row in ticks else " ") * columns
            yield [
                (f"{ticks.get(row, ''):>{gutter}} ", "plot--axis"),
                *marked(
                    [
                        self._segment(drawn, owner, cells, grid[start:])
                        for owner, start, cells in segments
                    ],
                    marks.get(row, {}),
                    self.glyphs.point,
                ),
                *letters.get(row, [("  ", "plot--axis")] if len(self.curves) > 1 else []),
            ]

    def _marks(
        self, drawn: Sequence[Line], scale: Scale, columns: int
    ) -> dict[int, dict[int, str]]:
        """Return the cells of the points of marked series: their styles by row and column.

        Without marks if there are more points than cells between them.
        """
        first, last = self.view.visible_range()
        picture = Picture([], scale, first, last, 0, columns, self._curve_rows)
        found: dict[int, dict[int, str]] = {}
        for line in drawn:
            series = line.series
            if not series.marked or 2 * len(series) > columns:
                continue
            for index, value in enumerate(series.raw.values):
                column = picture.cell_of(series.position(index, self.view.axis))
                row = None if isnan(value) else picture.row_of(value, self.glyphs)
                if column is not None and row is not None:
                    found.setdefault(row, {})[column] = line.style
        return found

    def _segment(self, drawn: Sequence[Line], owner: int, cells: bytes, grid: str) -> StyledText:
        if not owner:
            return grid[: len(cells)], "plot--grid"
        line = drawn[owner - 1]
        return raster.cell_text(
            cells, self.glyphs.dotted if line.dotted else self.glyphs.solid
        ), line.style

    def _empty_rows(self, rows: int) -> Iterator[list[StyledText]]:
        if any(curve.series.last is not None for curve in self.curves):
            message = "no positive values in range" if self.log else "no values in range"
        else:
            message = "no values yet" if self.view.live else "no values"
        for row in range(rows):
            text = message if row == (rows - 1) // 2 else ""
            yield [(text.center(self.width)[: self.width], "plot--axis")]

    def _ticks(self, scale: Scale, rows: int) -> dict[int, str]:
        """Return the tick labels by row."""
        top = rows * self.glyphs.dot_rows - 1
        return {
            rows - 1 - round(scale.fraction(tick) * top) // self.glyphs.dot_rows: label
            for tick, label in zip(scale.ticks, scale.labels(), strict=True)
        }

    def _curve_letters(
        self, drawn: Sequence[Line], found: Sequence[list[Span]], scale: Scale, rows: int
    ) -> dict[int, list[StyledText]]:
        """Return the letters of several curves by row, at their last values."""
        ends: list[tuple[float, int]] = []
        for index, curve in enumerate(self.curves):
            curve_spans = [
                spans
                for line, spans in zip(drawn, found, strict=True)
                if line.series is curve.series
            ][-1]
            if end := next((span for span in reversed(curve_spans) if span), None):
                ends.append((scale.fraction(sum(end) / 2), index))
        placed: dict[int, list[StyledText]] = {}
        if len(self.curves) > 1:
            wanted = [
                int((1 - share) * (rows - 1) + 0.5) for share, _ in sorted(ends, reverse=True)
            ]
            for row, (_, index) in zip(
                spread(wanted, rows), sorted(ends, reverse=True), strict=False
            ):
                placed[row] = [(" " + LETTERS[index % len(LETTERS)], colour(index))]
        return placed

    def _axis(
        self, first: float, last: float, gutter: int, columns: int, gaps: set[int]
    ) -> list[StyledText]:
        """Return the axis row: a rule with labels, and marks at non-finite values."""
        axis = self.view.axis
        rule = [self.glyphs.rule] * columns
        used = 0
        for tick in axes.ticks_along(first, last, axis, max(columns // 12, 2)):
            label = f" {axes.position_label(tick, axis)} "
            middle = int((tick - first) / (last - first) * (columns - 1))
            start = min(middle - len(label) // 2, columns - len(label))
            start, label = (start, label) if start > 0 else (0, label[1:])
            if start >= used and gaps.isdisjoint(range(start, start + len(label))):
                rule[start : start + len(label)] = label
                used = start + len(label)
        segments: list[StyledText] = [(" " * (gutter + 1), "plot--axis")]
        for missing, signs in groupby(enumerate(rule), lambda pair: pair[0] in gaps):
            letters = "".join(sign for _, sign in signs)
            segments.append(
                (self.glyphs.gap * len(letters), "plot--gap")
                if missing
                else (letters, "plot--axis")
            )
        return segments


def marked(segments: Sequence[StyledText], marks: Mapping[int, str], sign: str) -> list[StyledText]:
    """Return the segments of a row with `sign` at some columns, whose styles are `marks`."""
    if not marks:
        return list(segments)
    cells = [(letter, style) for text, style in segments for letter in text]
    for column, style in marks.items():
        cells[column] = (sign, style)
    return [
        ("".join(letter for letter, _ in group), style)
        for style, group in groupby(cells, lambda cell: cell[1])
    ]


def spread(wanted: Sequence[int], rows: int) -> list[int]:
    """Return distinct rows close to the ascending `wanted` rows, at most `rows` of them."""
    used: list[int] = []
    for row in wanted[:rows]:
        used.append(max(row, used[-1] + 1) if used else row)
    for back in range(1, len(used) + 1):
        used[-back] = min(used[-back], rows - back)
    return used
