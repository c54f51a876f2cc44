"""A plot as rows of characters with the names of their styles: everything but the widget."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from pvtool.dashboard.plot import axes, raster
from pvtool.dashboard.plot.axes import Scale
from pvtool.dashboard.plot.raster import Canvas, Glyphs, Span
from pvtool.dashboard.plot.series import Extent, Series, Track
from pvtool.dashboard.plot.view import Curve, View

Run = tuple[str, str]  # characters, and the name of their style
LETTERS = "ABCDEFGH"
COLOURS = 4
_GUTTER = 5
_GRID = 4


@dataclass(frozen=True)
class Line:
    """One track of a curve, as it is drawn."""

    style: str
    track: Track
    series: Series
    dotted: bool = False
    mean: bool = (
        False  # of each column, where values are so dense that their extremes would fill it
    )


@dataclass(frozen=True)
class Picture:
    """What was painted, and where things lie in it."""

    rows: Sequence[Sequence[Run]]
    scale: Scale | None
    first: float
    last: float
    left: int
    columns: int
    height: int

    def cell_of(self, x: float) -> int | None:
        """The column of the screen where `x` lies, if it is shown."""
        share = (x - self.first) / (self.last - self.first)
        return (
            self.left + min(int(share * self.columns), self.columns - 1)
            if 0 <= share <= 1
            else None
        )

    def x_of(self, cell: int) -> float:
        """The middle of a column of the screen, or the nearest end of the axis."""
        share = (cell - self.left + 0.5) / self.columns
        return self.first + min(max(share, 0.0), 1.0) * (self.last - self.first)

    def row_of(self, value: float, glyphs: Glyphs) -> int | None:
        """The row of the screen where `value` lies."""
        if self.scale is None or (self.scale.log and value <= 0):
            return None
        dot = round(self.scale.fraction(value) * (self.height * glyphs.up - 1)) // glyphs.up
        return self.height - 1 - dot if 0 <= dot < self.height else None


def colour(index: int) -> str:
    return f"plot--curve-{index % COLOURS + 1}"


def lines(curves: Sequence[Curve], view: View, dense: Callable[[Series], bool]) -> list[Line]:
    """What to draw, in order: raw values behind, then other runs, then what is smooth.

    A dense curve is the mean of each column; without smoothing a dim band of its extremes lies behind.
    """
    behind: list[Line] = []
    others: list[Line] = []
    front: list[Line] = []
    for index, curve in enumerate(curves):
        series, dotted = curve.series, curve.kind == "overlay"
        best = series.smoothed.track if series.smoothed else series.raw
        mean = dense(series)
        (others if dotted else front).append(Line(colour(index), best, series, dotted, mean))
        if not dotted and (view.raw if series.smoothed else mean):
            behind.append(Line(colour(index).replace("curve", "raw"), series.raw, series))
    return [*behind, *others, *front]


@dataclass(frozen=True)
class Painter:
    """Paints curves into `width` by `height` cells."""

    curves: Sequence[Curve]
    view: View
    bounds: Extent | None
    log: bool
    glyphs: Glyphs
    width: int
    height: int

    def paint(self) -> Picture:
        first, last = self.view.shown()
        drawn = lines(self.curves, self.view, lambda series: self._is_dense(series, first, last))
        # the labels' width is known only when the values are, and those only by the columns: begin with a guess
        scale, found, gaps = self._measure(drawn, first, last, self._columns(_GUTTER))
        gutter = max([_GUTTER, *map(len, scale.labels())]) if scale else _GUTTER
        columns = self._columns(gutter)
        if gutter != _GUTTER:
            scale, found, gaps = self._measure(drawn, first, last, columns)
        rows = list(self._rows(drawn, scale, found, gaps, gutter, columns))
        if self.height > 1:
            rows.append(
                self._axis(
                    first, last, gutter, columns, {column // self.glyphs.across for column in gaps}
                )
            )
        return Picture(rows, scale, first, last, gutter + 1, columns, self._rows_of_curves)

    def _is_dense(self, series: Series, first: float, last: float) -> bool:
        count = self._columns(_GUTTER) * self.glyphs.across
        return raster.is_dense(
            series.positions(self.view.axis), series.zero(self.view.axis), (first, last), count
        )

    @property
    def _rows_of_curves(self) -> int:
        """Without the axis, for which one row alone has no room."""
        return max(1, self.height - 1)

    def _columns(self, gutter: int) -> int:
        return max(self.width - gutter - 1 - 2 * (len(self.curves) > 1), 1)

    def _measure(
        self, drawn: Sequence[Line], first: float, last: float, columns: int
    ) -> tuple[Scale | None, list[list[Span]], set[int]]:
        """Each line's spans, a scale that holds them all, and the columns where a value is missing."""
        count = columns * self.glyphs.across
        width = (last - first) / count
        found: list[list[Span]] = []
        gaps: set[int] = set()
        known: dict[int, list[int]] = {}
        for line in drawn:
            positions, zero = (
                line.series.positions(self.view.axis),
                line.series.zero(self.view.axis),
            )
            at = known.get(id(line.series)) or raster.edges(
                positions, first + zero, last + zero, count
            )
            known[id(line.series)] = at
            gaps |= raster.gap_columns(line.series.raw, at)
            found.append(
                raster.spans(line.track, positions, at, first + zero, width, self.log, line.mean)
            )
        return self._scale([span for each in found for span in each if span]), found, gaps

    def _scale(self, found: Sequence[Extent]) -> Scale | None:
        if not found:
            return None
        extent = min(low for low, _ in found), max(high for _, high in found)
        return axes.fit(extent, self.bounds, self.log, max(2, self._rows_of_curves // 3))

    def _rows(
        self,
        drawn: Sequence[Line],
        scale: Scale | None,
        found: Sequence[list[Span]],
        gaps: set[int],
        gutter: int,
        columns: int,
    ) -> Iterator[list[Run]]:
        rows = self._rows_of_curves
        if scale is None:
            yield from self._nothing(rows)
            return
        canvas = Canvas(columns, rows)
        for owner, spans in enumerate(found, 1):
            stroked = raster.strokes(spans, scale, rows * self.glyphs.up, gaps)
            canvas.put(raster.layer(stroked, self.glyphs, rows), owner)
        ticks = self._ticks(scale, rows)
        letters = self._letters(drawn, found, scale, rows)
        for row, runs in enumerate(canvas.runs()):
            grid = (self.glyphs.grid.ljust(_GRID) if row in ticks else " ") * columns
            yield [
                (f"{ticks.get(row, ''):>{gutter}} ", "plot--axis"),
                *(self._run(drawn, owner, cells, grid[start:]) for owner, start, cells in runs),
                *letters.get(row, [("  ", "plot--axis")] if len(self.curves) > 1 else []),
            ]

    def _run(self, drawn: Sequence[Line], owner: int, cells: bytes, grid: str) -> Run:
        if not owner:
            return grid[: len(cells)], "plot--grid"
        line = drawn[owner - 1]
        return raster.text(
            cells, self.glyphs.dotted if line.dotted else self.glyphs.solid
        ), line.style

    def _nothing(self, rows: int) -> Iterator[list[Run]]:
        some = any(curve.series.last is not None for curve in self.curves)
        words = (
            ("nothing above zero here" if self.log else "nothing here")
            if some
            else "no values yet"
            if self.view.live
            else "no values"
        )
        for row in range(rows):
            yield [
                (
                    (words if row == (rows - 1) // 2 else "").center(self.width)[: self.width],
                    "plot--axis",
                )
            ]

    def _ticks(self, scale: Scale, rows: int) -> dict[int, str]:
        """The label of each row that has one."""
        top = rows * self.glyphs.up - 1
        return {
            rows - 1 - round(scale.fraction(tick) * top) // self.glyphs.up: label
            for tick, label in zip(scale.ticks, scale.labels(), strict=True)
        }

    def _letters(
        self, drawn: Sequence[Line], found: Sequence[list[Span]], scale: Scale, rows: int
    ) -> dict[int, list[Run]]:
        """Where there are several curves: the letter of each, at the height where it ends."""
        ends: list[tuple[float, int]] = []
        for index, curve in enumerate(self.curves):
            best = [
                spans
                for line, spans in zip(drawn, found, strict=True)
                if line.series is curve.series
            ][-1]
            if end := next((span for span in reversed(best) if span), None):
                ends.append((scale.fraction(sum(end) / 2), index))
        placed: dict[int, list[Run]] = {}
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
    ) -> list[Run]:
        """The lowest row: a thin rule with labels, and a mark that no label hides wherever a value is no number."""
        axis = self.view.axis
        rule = [self.glyphs.rule] * columns
        taken = 0
        for tick in axes.ticks_along(first, last, axis, max(columns // 12, 2)):
            label = f" {axes.along(tick, axis)} "
            middle = int((tick - first) / (last - first) * (columns - 1))
            start = min(middle - len(label) // 2, columns - len(label))
            start, label = (start, label) if start > 0 else (0, label[1:])
            if start >= taken and gaps.isdisjoint(range(start, start + len(label))):
                rule[start : start + len(label)] = label
                taken = start + len(label)
        runs: list[Run] = [(" " * (gutter + 1), "plot--axis")]
        for missing, signs in groupby(enumerate(rule), lambda pair: pair[0] in gaps):
            letters = "".join(sign for _, sign in signs)
            runs.append(
                (self.glyphs.gap * len(letters), "plot--gap")
                if missing
                else (letters, "plot--axis")
            )
        return runs


def spread(wanted: Sequence[int], rows: int) -> list[int]:
    """Rows as near as may be to the ascending ones that are wanted, no two the same, as many as there are."""
    taken: list[int] = []
    for row in wanted[:rows]:
        taken.append(max(row, taken[-1] + 1) if taken else row)
    for back in range(1, len(taken) + 1):
        taken[-back] = min(taken[-back], rows - back)
    return taken
