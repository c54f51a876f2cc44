"""Curves of a run over its steps or over time: live, smoothed, zoomed, read by cursor or mouse."""

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.content import Content
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from pvtool.dashboard import keys
from pvtool.dashboard.plot import captions
from pvtool.dashboard.plot.paint import COLOURS, LETTERS, Painter, Picture, Run, colour
from pvtool.dashboard.plot.raster import wanted_glyphs
from pvtool.dashboard.plot.series import Extent
from pvtool.dashboard.plot.view import Curve, View

__all__ = ["Curve", "Plot", "View"]

_ZOOM = 1.5
_PAN = 1 / 8
_PIECE = 5_000  # values smoothed before the loop may do something else: under a millisecond


class Plot(Widget, can_focus=True):
    """One plot. `bounds` is what its scale shows at least, until `a` is pressed; all plots of a screen share `view`."""

    BINDINGS = keys.PLOT
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "plot--axis",
        "plot--grid",
        "plot--gap",
        "plot--cursor",
        *(f"plot--{kind}-{index + 1}" for kind in ("curve", "raw") for index in range(COLOURS)),
    }
    DEFAULT_CSS = """
    Plot {
        height: 1fr;
        min-height: 5;
        border: round $foreground 25%;
        border-title-color: $foreground;
        border-subtitle-color: $text-muted;
        &:focus { border: round $accent; }
        & > .plot--axis { color: $foreground 55%; }
        & > .plot--grid { color: $foreground 14%; }
        & > .plot--gap { color: $error; text-style: bold; }
        & > .plot--cursor { color: $foreground; }
        & > .plot--curve-1 { color: $text-primary; }
        & > .plot--curve-2 { color: $text-warning; }
        & > .plot--curve-3 { color: $text-success; }
        & > .plot--curve-4 { color: $text-error; }
        & > .plot--raw-1 { color: $text-primary 35%; }
        & > .plot--raw-2 { color: $text-warning 35%; }
        & > .plot--raw-3 { color: $text-success 35%; }
        & > .plot--raw-4 { color: $text-error 35%; }
        &:ansi > .plot--axis, &:ansi > .plot--grid { color: ansi_bright_black; }
        &:ansi > .plot--raw-1, &:ansi > .plot--raw-2 { color: ansi_bright_black; }
        &:ansi > .plot--raw-3, &:ansi > .plot--raw-4 { color: ansi_bright_black; }
    }
    """

    def __init__(
        self,
        title: str,
        view: View,
        bounds: Extent | None = None,
        unit: str = "",
        *,
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self.curves: Sequence[Curve] = ()
        self.view = view
        self.log_scale = False
        self.autoscaled = False
        self._title, self._bounds, self._unit = title, bounds, unit
        self._glyphs = wanted_glyphs()
        self._picture: Picture | None = None
        self._strips: list[Strip] = []
        self._cursor_cell: int | None = None
        self._due = False
        self._dragged: tuple[int, Extent] | None = None

    @property
    def in_sight(self) -> bool:
        """Whether it is on the pane that is looked at: what others show has no say in the range."""
        return all(node.display for node in self.ancestors_with_self if isinstance(node, Widget))

    def show(self, curves: Sequence[Curve], bounds: Extent | None = None) -> None:
        """Draw these; those laid over come after the run's own. `bounds` replaces the scale's range, if given."""
        self._bounds = bounds or self._bounds
        self.curves = tuple(curves)
        self.refresh_data()

    def refresh_data(self) -> None:
        """Values were added to the curves: draw them."""
        if self.is_attached:
            self.view_changed()

    def view_changed(self) -> None:
        self.weight_changed()
        self._repaint()

    def weight_changed(self) -> None:
        """What is drawn stays until the other smoothing is there, at once if the curves are short."""
        if self._smooth_a_piece():
            self._repaint()
        else:
            self.run_worker(self._smooth, group="smoothing", exclusive=True)

    def cursor_moved(self) -> None:
        """Repaint no more than two columns and the axis, so that a slow link can follow."""
        if self._picture is None:
            self.refresh()
            return
        rows = self._picture.height
        before, self._cursor_cell = self._cursor_cell, self._find_cursor(self._picture)
        changed = [
            Region(cell, 0, 1, rows) for cell in {before, self._cursor_cell} if cell is not None
        ]
        self.refresh(*changed, Region(0, rows, self.size.width, 1))

    def render_line(self, y: int) -> Strip:
        if (
            not self._strips
        ):  # the first time each plot paints in a turn of its own, as many may come at once
            self._repaint()
            return Strip.blank(self.size.width, self.rich_style)
        picture = self._picture or self._paint()
        if y >= len(self._strips):
            return Strip.blank(self.size.width, self.rich_style)
        if self._cursor_cell is None:
            return self._strips[y]
        cell = self._cursor_cell
        return (
            self._with_reading(cell) if y == picture.height else self._with_cursor(picture, cell, y)
        )

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._picture = None

    def on_mount(self) -> None:
        self.view.join(self)
        self.view_changed()

    def on_unmount(self) -> None:
        self.view.leave(self)

    def on_resize(self) -> None:
        self._picture = None
        self._repaint()  # the screen was drawn at the new size before this was told

    def watch_has_focus(self, focused: bool) -> None:
        super().watch_has_focus(focused)
        self.border_subtitle = self._legend()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self._zoom_at(event, _ZOOM)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self._zoom_at(event, 1 / _ZOOM)

    def on_mouse_down(self, event: events.MouseDown) -> None:
        self._dragged = event.screen_x, self.view.shown()
        self.capture_mouse()

    def on_mouse_up(self) -> None:
        self._dragged = None
        self.release_mouse()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if self._dragged and self._picture:
            begun, (first, last) = self._dragged
            moved = (begun - event.screen_x) / self._picture.columns * (last - first)
            if moved and self.view.range:
                self.view.look(first + moved, last + moved)
        elif self._picture and (at := event.get_content_offset(self)):
            self.view.read(self._picture.x_of(at.x))

    def on_leave(self) -> None:
        self.view.read(None)

    def action_zoom(self, direction: int) -> None:
        self.view.zoom(_ZOOM**direction)

    def action_pan(self, direction: int) -> None:
        self.view.pan(_PAN * direction)

    def action_fit(self) -> None:
        self.view.fit()

    def action_axis(self) -> None:
        self.view.turn_axis()

    def action_smooth(self) -> None:
        self.view.smooth_more()

    def action_raw(self) -> None:
        self.view.turn_raw()

    def action_log(self) -> None:
        self.log_scale = not self.log_scale
        self._repaint()

    def action_autoscale(self) -> None:
        self.autoscaled = not self.autoscaled
        self._repaint()

    def action_cursor(self, direction: int) -> None:
        if shown := self._picture:
            self.view.step_cursor(
                direction, self.curves, (shown.last - shown.first) / shown.columns
            )

    def action_enlarge(self) -> None:
        if self.screen.maximized is self:
            self.screen.minimize()
        else:
            self.screen.maximize(self, container=False)

    def _zoom_at(self, event: events.MouseEvent, factor: float) -> None:
        event.stop()
        if self._picture:
            self.view.zoom(factor, self._picture.x_of(event.get_content_offset_capture(self).x))

    def _smooth_a_piece(self) -> bool:
        return all(curve.series.smooth(self.view.weight, _PIECE) for curve in self.curves)

    async def _smooth(self) -> None:
        """Take long curves in pieces, and turn to the keys between them."""
        async with self.view.turn:
            while not self._smooth_a_piece():
                await asyncio.sleep(0)
        self._repaint()

    def _repaint(self) -> None:
        """Paint soon, each plot in a turn of its own, and once for many changes, so that keys are answered between."""
        if not self._due:
            self._due = self.call_later(self._renew)

    def _renew(self) -> None:
        """Paint, and send only what is otherwise than before: most of a long curve stays as it was."""
        self._due = False
        before = self._strips if self._picture else []
        self._picture = None
        if self.size:
            self._paint()
        heading = Content(captions.heading(self._title, self.curves, self.view, self._unit))
        legend = self._legend()
        if len(before) == len(self._strips) and legend == self._border_subtitle:
            self._border_title = heading  # the public name would send all of the plot
            self.refresh(Region(0, -1, self.size.width, 1), *_changes(before, self._strips))
        else:
            self.border_title, self.border_subtitle = heading, legend
            self.refresh()

    def _paint(self) -> Picture:
        bounds = None if self.autoscaled else self._bounds
        painter = Painter(self.curves, self.view, bounds, self.log_scale, self._glyphs, *self.size)
        self._picture = painter.paint()
        self._strips = [self._strip(runs) for runs in self._picture.rows]
        self._cursor_cell = self._find_cursor(self._picture)
        return self._picture

    def _strip(self, runs: Sequence[Run]) -> Strip:
        return Strip([Segment(text, self.get_component_rich_style(style)) for text, style in runs])

    def _legend(self) -> Content:
        """Which letter is which curve, if there are several; where keys go, also how what is drawn was changed."""
        named = [
            Content.assemble(
                (LETTERS[index % len(LETTERS)], f".{colour(index)}"), f" {curve.label}"
            )
            for index, curve in enumerate(self.curves)
        ]
        smooth = self.view.weight and not all(curve.series.exact for curve in self.curves)
        words = [f"smoothed {self.view.weight:g}"] if smooth and self.has_focus else []
        words += ["log"] if self.log_scale else []
        return Content(" · ").join([*(named if len(named) > 1 else []), *map(Content, words)])

    def _find_cursor(self, picture: Picture) -> int | None:
        return None if self.view.cursor is None else picture.cell_of(self.view.cursor)

    def _with_cursor(self, picture: Picture, cell: int, y: int) -> Strip:
        """The row with a thin line where one reads, and a point where the line meets a curve."""
        strip = self._strips[y]
        mark = strip.crop(cell, cell + 1)
        met = [
            index
            for index, level in captions.levels(self.curves, self.view)
            if self._row_of(picture, level) == y
        ]
        if met:
            mark = self._strip([(self._glyphs.point, colour(met[0]))])
        elif mark.text in (" ", self._glyphs.grid):
            mark = self._strip([(self._glyphs.cursor, "plot--cursor")])
        return Strip.join([strip.crop(0, cell), mark, strip.crop(cell + 1)])

    def _row_of(self, picture: Picture, level: float) -> int | None:
        return picture.row_of(level, self._glyphs)

    def _with_reading(self, cell: int) -> Strip:
        """The axis with the values at the cursor written into it."""
        strip, width = self._strips[-1], self.size.width
        words = f" {captions.reading(self.curves, self.view, self._unit, width - 2)} "
        start = min(max(cell - len(words) // 2, 0), width - len(words))
        said = self._strip([(words, "plot--cursor")])
        return Strip.join([strip.crop(0, start), said, strip.crop(start + len(words))])


def _changes(before: Sequence[Strip], now: Sequence[Strip]) -> list[Region]:
    """In each row the cells from the first to the last that differ; every character takes one."""
    regions: list[Region] = []
    for y, (old, new) in enumerate(zip(before, now, strict=True)):
        differing = [
            x for x, (a, b) in enumerate(zip(_cells(old), _cells(new), strict=False)) if a != b
        ]
        if differing or old.cell_length != new.cell_length:
            left, right = (differing[0], differing[-1] + 1) if differing else (0, new.cell_length)
            regions.append(Region(left, y, right - left, 1))
    return regions


def _cells(strip: Strip) -> list[tuple[str, Style | None]]:
    return [(letter, style) for text, style, _ in strip for letter in text]
