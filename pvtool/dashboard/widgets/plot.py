"""Plot of curves over steps or time: live, smoothed, zoomable, with a cursor for keys and mouse."""

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
from pvtool.dashboard.plot.paint import COLOURS, LETTERS, Painter, Picture, StyledText, colour
from pvtool.dashboard.plot.raster import configured_glyphs
from pvtool.dashboard.plot.series import Extent
from pvtool.dashboard.plot.view import Curve, View

__all__ = ["Curve", "Plot", "View"]

_ZOOM = 1.5
_PAN = 1 / 8
_VALUES_PER_TURN = 5_000  # smoothed before yielding to the event loop: under a millisecond


class Plot(Widget, can_focus=True):
    """Plot of one or more curves.

    `bounds` is the minimum range of the scale, and `total` the maximum of a gauge, until `a` is
    pressed; all plots of a screen share `view`.
    """

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
        total: float | None = None,
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self.curves: Sequence[Curve] = ()
        self.view = view
        self.log_scale = False
        self.autoscaled = False
        self._title, self._bounds, self._unit = title, bounds, unit
        self._total = total
        self._glyphs = configured_glyphs()
        self._picture: Picture | None = None
        self._strips: list[Strip] = []
        self._cursor_cell: int | None = None
        self._due = False
        self._drag: tuple[int, Extent] | None = None

    @property
    def on_current_pane(self) -> bool:
        """Return whether the plot is on the current pane; hidden plots do not affect the range."""
        return all(node.display for node in self.ancestors_with_self if isinstance(node, Widget))

    def show(self, curves: Sequence[Curve], total: float | None = None) -> None:
        """Draw the curves, the run's own first; `total` replaces the maximum of a gauge."""
        self._total = total or self._total
        self.curves = tuple(curves)
        self.refresh_data()

    def refresh_data(self) -> None:
        """Draw values that were added to the curves."""
        if self.is_attached:
            self.view_changed()
            self.view.data_changed()

    def view_changed(self) -> None:
        self.weight_changed()
        self._repaint()

    def weight_changed(self) -> None:
        """Smooth again: immediately if the curves are short, otherwise in the background."""
        if self._smooth_some():
            self._repaint()
        else:
            self.run_worker(self._smooth, group="smoothing", exclusive=True)

    def cursor_moved(self) -> None:
        """Repaint at most two columns and the axis, for slow links."""
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
        if not self._strips:  # first paint: later, one plot at a time
            self._repaint()
            return Strip.blank(self.size.width, self.rich_style)
        picture = self._picture or self._paint()
        if y >= len(self._strips):
            return Strip.blank(self.size.width, self.rich_style)
        if self._cursor_cell is None:
            return self._strips[y]
        cell = self._cursor_cell
        return (
            self._axis_with_values(cell)
            if y == picture.height
            else self._row_with_cursor(picture, cell, y)
        )

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._picture = None

    def on_mount(self) -> None:
        self.view.add_viewer(self)
        self.view_changed()
        self.view.data_changed()

    def on_unmount(self) -> None:
        self.view.remove_viewer(self)

    def on_resize(self) -> None:
        self._picture = None
        self._repaint()  # the screen was already drawn at the new size

    def watch_has_focus(self, focused: bool) -> None:
        super().watch_has_focus(focused)
        self.border_subtitle = self._legend()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self._zoom_at(event, _ZOOM)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self._zoom_at(event, 1 / _ZOOM)

    def on_mouse_down(self, event: events.MouseDown) -> None:
        self._drag = event.screen_x, self.view.visible_range()
        self.capture_mouse()

    def on_mouse_up(self) -> None:
        self._drag = None
        self.release_mouse()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if self._drag and self._picture:
            start, (first, last) = self._drag
            moved = (start - event.screen_x) / self._picture.columns * (last - first)
            if moved and self.view.range:
                self.view.show_range(first + moved, last + moved)
        elif self._picture and (offset := event.get_content_offset(self)):
            self.view.move_cursor(self._picture.x_of(offset.x))

    def on_leave(self) -> None:
        self.view.move_cursor(None)

    def action_zoom(self, direction: int) -> None:
        self.view.zoom(_ZOOM**direction)

    def action_pan(self, direction: int) -> None:
        self.view.pan(_PAN * direction)

    def action_fit(self) -> None:
        self.view.fit()

    def action_axis(self) -> None:
        self.view.toggle_axis()

    def action_smooth(self) -> None:
        self.view.increase_smoothing()

    def action_raw(self) -> None:
        self.view.toggle_raw()

    def action_log(self) -> None:
        self.log_scale = not self.log_scale
        self._repaint()

    def action_autoscale(self) -> None:
        self.autoscaled = not self.autoscaled
        self._repaint()

    def action_cursor(self, direction: int) -> None:
        if picture := self._picture:
            self.view.step_cursor(
                direction, self.curves, (picture.last - picture.first) / picture.columns
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

    def _smooth_some(self) -> bool:
        return all(curve.series.smooth(self.view.weight, _VALUES_PER_TURN) for curve in self.curves)

    async def _smooth(self) -> None:
        """Smooth long curves in parts, yielding to the event loop between them."""
        async with self.view.smoothing_lock:
            while not self._smooth_some():
                await asyncio.sleep(0)
        self._repaint()

    def _repaint(self) -> None:
        """Schedule one paint for several changes, so that keys are handled between plots."""
        if not self._due:
            self._due = self.call_later(self._paint_changes)

    def _paint_changes(self) -> None:
        """Paint, and send only cells that changed: most of a long curve stays the same."""
        self._due = False
        before = self._strips if self._picture else []
        self._picture = None
        if self.size:
            self._paint()
        heading = Content(captions.title_caption(self._title, self.curves, self.view, self._unit))
        legend = self._legend()
        if len(before) == len(self._strips) and legend == self._border_subtitle:
            self._border_title = heading  # the public attribute would repaint the whole plot
            self.refresh(Region(0, -1, self.size.width, 1), *_changes(before, self._strips))
        else:
            self.border_title, self.border_subtitle = heading, legend
            self.refresh()

    def _paint(self) -> Picture:
        bounds, total = (None, None) if self.autoscaled else (self._bounds, self._total)
        painter = Painter(
            self.curves, self.view, bounds, self.log_scale, self._glyphs, *self.size, total
        )
        self._picture = painter.paint()
        self._strips = [self._strip(segments) for segments in self._picture.rows]
        self._cursor_cell = self._find_cursor(self._picture)
        return self._picture

    def _strip(self, segments: Sequence[StyledText]) -> Strip:
        return Strip(
            [Segment(text, self.get_component_rich_style(style)) for text, style in segments]
        )

    def _legend(self) -> Content:
        """Return the legend: letters of several curves, and the options of the focused plot."""
        named = [
            Content.assemble(
                (LETTERS[index % len(LETTERS)], f".{colour(index)}"), f" {curve.label}"
            )
            for index, curve in enumerate(self.curves)
        ]
        smooth = self.view.weight and not all(curve.series.exact for curve in self.curves)
        options = [f"smoothed {self.view.weight:g}"] if smooth and self.has_focus else []
        options += ["log"] if self.log_scale else []
        return Content(" · ").join([*(named if len(named) > 1 else []), *map(Content, options)])

    def _find_cursor(self, picture: Picture) -> int | None:
        return None if self.view.cursor is None else picture.cell_of(self.view.cursor)

    def _row_with_cursor(self, picture: Picture, cell: int, y: int) -> Strip:
        """Return a row with the cursor line, or a point where it meets a curve."""
        strip = self._strips[y]
        mark = strip.crop(cell, cell + 1)
        curves_here = [
            index
            for index, value in captions.cursor_values(self.curves, self.view)
            if self._row_of(picture, value) == y
        ]
        if curves_here:
            mark = self._strip([(self._glyphs.point, colour(curves_here[0]))])
        elif mark.text in (" ", self._glyphs.grid):
            mark = self._strip([(self._glyphs.cursor, "plot--cursor")])
        return Strip.join([strip.crop(0, cell), mark, strip.crop(cell + 1)])

    def _row_of(self, picture: Picture, value: float) -> int | None:
        return picture.row_of(value, self._glyphs)

    def _axis_with_values(self, cell: int) -> Strip:
        """Return the axis row with the values at the cursor."""
        strip, width = self._strips[-1], self.size.width
        text = f" {captions.cursor_caption(self.curves, self.view, self._unit, width - 2)} "
        start = min(max(cell - len(text) // 2, 0), width - len(text))
        caption = self._strip([(text, "plot--cursor")])
        return Strip.join([strip.crop(0, start), caption, strip.crop(start + len(text))])


def _changes(before: Sequence[Strip], now: Sequence[Strip]) -> list[Region]:
    """Return, for each row, the region from the first to the last cell that differs."""
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
