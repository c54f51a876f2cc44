"""Log of a run: events or engine output of any length, followed and searched."""

import asyncio
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Input

from pvtool.dashboard import keys
from pvtool.dashboard.follow.event_text import Level, LogLine
from pvtool.dashboard.follow.log_lines import LogLines
from pvtool.dashboard.follow.run import RunView
from pvtool_core.store.liveness import ENDED, State
from pvtool_core.store.runs import RunFolder

_POLL_SECONDS = 0.5
_MAX_CACHED = 4000
_CHUNK = 500  # lines measured or searched between two updates of the screen
_MAX_WRAPPED = 20_000
_INDENT = 4
_STYLES = {Level.WARNING: "log--warning", Level.ERROR: "log--error"}


class Log(Vertical):
    """The log with a search field."""

    DEFAULT_CSS = """
    Log {
        Input { display: none; height: 1; border: none; padding: 0 1; &.-shown { display: block; } }
    }
    """

    def compose(self) -> ComposeResult:
        yield LogView()
        yield Input(placeholder="search text", compact=True)

    def show(self, run: RunView) -> None:
        """Follow the log of this run."""
        self.query_one(LogView).follow(
            RunFolder(run.path), run.summary.state not in {*ENDED, State.LOST}
        )

    def open_search(self) -> None:
        """Show and focus the search field."""
        field = self.query_one(Input)
        field.add_class("-shown")
        field.focus()

    async def on_input_submitted(self, event: Input.Submitted) -> None:
        self._close_search()
        self.query_one(LogView).search(event.value)

    def on_key(self, event: events.Key) -> None:
        if event.key == "escape" and self.query_one(Input).has_focus:
            event.stop()
            self._close_search()

    def _close_search(self) -> None:
        self.query_one(Input).remove_class("-shown")
        self.query_one(LogView).focus()


class LogView(ScrollView, can_focus=True):
    """Lines of a file; only visible lines are read."""

    BINDINGS = keys.LOG
    COMPONENT_CLASSES: ClassVar[set[str]] = {"log--found", "log--time", *_STYLES.values()}
    DEFAULT_CSS = """
    LogView {
        height: 1fr;
        padding: 0 1;
        border-top: solid $panel;
        border-title-color: $text-muted;
        &:focus { border-top: solid $accent; }
        .log--found { background: $accent-muted; color: $text-accent; }
        .log--time { color: $text-muted; }
        .log--warning { color: $text-warning; }
        .log--error { color: $text-error; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._folder: RunFolder | None = None
        self._lines: LogLines | None = None
        self._shows_engine_log = self._shows_all_events = False
        self._texts: dict[int, LogLine] = {}
        self._search_text, self._found = "", -1
        self._matches: list[int] = []
        self._searched = 0  # lines whose matches are known
        self._wraps = False
        self._widths = array("I")  # of each line, measured for wrapping
        self._row_ends = array("Q")
        self._following = self._live = True
        self._reading = False
        self._heading = self._status = ""

    def on_mount(self) -> None:
        self.set_interval(_POLL_SECONDS, self._poll)

    def follow(self, folder: RunFolder, live: bool) -> None:
        """Show the log of this run; a log that is already shown keeps its position.

        `live` means that the log may grow.
        """
        self._live = live
        if self._folder is None or self._folder.path != folder.path:
            self._folder = folder
            self._open()

    def _open(self) -> None:
        if self._folder is None:
            return
        path = self._folder.log if self._shows_engine_log else self._folder.events
        self._lines = LogLines(path, events=not self._shows_engine_log)
        self._texts, self._following = {}, True
        self._forget()
        self._poll()

    def _forget(self) -> None:
        """Forget what is known of line numbers: the match, all matches and the wrapped rows."""
        self._found, self._matches, self._searched = -1, [], 0
        self._widths, self._row_ends = array("I"), array("Q")

    def _numbers(self) -> Sequence[int]:
        return (
            self._lines.numbers(self._shows_all_events or self._shows_engine_log)
            if self._lines
            else ()
        )

    def _poll(self) -> None:
        if self._lines and self.is_on_screen and not self._reading:
            self.run_worker(self._extend(self._lines), group="extend", exit_on_error=False)

    async def _extend(self, lines: LogLines) -> None:
        self._reading = True
        try:
            more = True
            while more and lines is self._lines:
                chunk = await asyncio.to_thread(lines.extend)
                more = chunk.more
                if chunk.restarted:
                    self._texts = {}
                    self._forget()
                    self.refresh()
                self._update_size()
        except OSError as error:
            self._show_status(f"{error.strerror}: {lines.path.name}")
        finally:
            self._reading = False

    def _update_size(self) -> None:
        """Adapt the scrollbars to the number of lines, and stay at the end if it is followed."""
        count = len(self._numbers())
        if self._wraps:
            self._measure()
            size = Size(0, self._row_ends[-1] if self._row_ends else 0)
        else:
            size = Size(max((cell_len(t.whole) for t in self._texts.values()), default=0), count)
        if self.virtual_size != size:
            self.virtual_size = size
            if self._following:
                self.call_after_refresh(self.scroll_end, animate=False)
        self._load()
        name = "engine.log" if self._shows_engine_log else "events"
        kind = (
            ""
            if self._shows_engine_log
            else ", all"
            if self._shows_all_events
            else ", without steps and gauges"
        )
        self._heading = (
            f" {name}{kind}  {count} lines{'  live' if self._live and self._following else ''} "
        )
        self._show_status(self._status)

    def _show_status(self, status: str) -> None:
        """Show the result of a search or an error beside the heading."""
        self._status = status
        self.border_title = Content(f"{self._heading}{f'  {status} ' if status else ''}")

    def _load(self) -> None:
        """Read the visible lines that are not cached."""
        numbers = self._numbers()
        top, _ = self._line_at(self.scroll_offset.y)
        wanted = [
            number for number in numbers[top : top + self.size.height] if number not in self._texts
        ]
        if wanted and self._lines:
            self.run_worker(
                partial(self._fetch, self._lines, wanted),
                group="load",
                exclusive=True,
                exit_on_error=False,
            )

    async def _fetch(self, lines: LogLines, wanted: list[int]) -> None:
        texts = await asyncio.to_thread(lines.texts, wanted)
        if lines is self._lines:
            if len(self._texts) > _MAX_CACHED:
                self._texts = {}
            self._texts.update(zip(wanted, texts, strict=True))
            self._update_size()
            self.refresh()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._following = self.is_vertical_scroll_end
        self._load()

    def on_resize(self) -> None:
        self._row_ends = array("Q")
        self._update_size()

    def _line_at(self, row: int) -> tuple[int, int]:
        """Return the index of the line in a row, and the row's position within the line."""
        if not self._wraps:
            return row, 0
        index = bisect_right(self._row_ends, row)
        return index, row - (self._row_ends[index - 1] if index else 0)

    def _row_of(self, index: int) -> int:
        """Return the first row of a line."""
        if not self._wraps or not index:
            return index
        return self._row_ends[min(index, len(self._row_ends)) - 1] if self._row_ends else 0

    def _widths_of_rows(self) -> tuple[int, int]:
        """Return the cells for text in the first row of a wrapped line, and in the next ones."""
        width = max(_INDENT + 1, self.scrollable_content_region.width)
        return width, width - _INDENT

    def _measure(self) -> None:
        """Update the rows of wrapped lines; measure new lines in the background."""
        known = len(self._widths)
        if len(self._row_ends) != known:
            width, room = self._widths_of_rows()
            rows = (1 if cells <= width else 1 - (width - cells) // room for cells in self._widths)
            self._row_ends = array("Q", accumulate(rows))
        if self._lines and known < len(self._numbers()):
            self.run_worker(
                partial(self._measure_lines, self._lines),
                group="measure",
                exclusive=True,
                exit_on_error=False,
            )

    async def _measure_lines(self, lines: LogLines) -> None:
        numbers = self._numbers()
        while lines is self._lines and (known := len(self._widths)) < len(numbers):
            texts = await asyncio.to_thread(lines.texts, numbers[known : known + _CHUNK])
            if lines is self._lines and len(self._widths) == known:
                self._widths.extend(cell_len(line.whole) for line in texts)
        if lines is self._lines:
            self._update_size()
            self.refresh()

    def render_line(self, y: int) -> Strip:
        left, top = self.scroll_offset
        numbers, width = self._numbers(), self.size.width
        index, part = self._line_at(top + y)
        if index >= len(numbers):
            return Strip.blank(width, self.rich_style)
        strip, style = self._styled(index, self._texts.get(numbers[index], LogLine("")))
        if not self._wraps:
            return strip.crop_extend(left, left + width, style)
        first, room = self._widths_of_rows()
        if part == 0:
            return strip.crop(0, first).extend_cell_length(width, style)
        start = first + (part - 1) * room
        rest = strip.crop(start, start + room)
        return Strip.join([Strip([Segment(" " * _INDENT, style)]), rest]).extend_cell_length(
            width, style
        )

    def _styled(self, index: int, line: LogLine) -> tuple[Strip, Style]:
        """Return a line with its colours, and the style of the space after it."""
        if index == self._found:
            style = self.get_component_rich_style("log--found")
            return Strip([Segment(line.whole, style)]), style
        style = self.rich_style
        loud = style
        if line.level in _STYLES:
            loud += self.get_component_rich_style(_STYLES[line.level], partial=True)
        time = style + self.get_component_rich_style("log--time", partial=True)
        rest = line.whole.removeprefix(line.time)
        return Strip([Segment(line.time, time), Segment(rest, loud)]), style

    def action_search(self) -> None:
        if isinstance(self.parent, Log):
            self.parent.open_search()

    def search(self, text: str) -> None:
        """Go to the first visible or later line that contains `text`, and count all."""
        top, _ = self._line_at(self.scroll_offset.y)
        self._search_text, self._found = text, max(-1, top - 1)
        self._matches, self._searched = [], 0
        self._show_status("")
        self.action_next_match(1)
        self._count()

    def action_next_match(self, direction: int) -> None:
        if self._search_text and self._lines and len(self._numbers()):
            self.run_worker(
                partial(self._find, self._lines, direction),
                group="find",
                exclusive=True,
                exit_on_error=False,
            )

    async def _find(self, lines: LogLines, direction: int) -> None:
        numbers = self._numbers()
        found = await asyncio.to_thread(
            lines.find, self._search_text, numbers, self._found + direction, direction
        )
        if lines is not self._lines:
            return
        if found is None:
            self._show_status(f"{self._search_text!r} not found")
            return
        self._found, self._following = found, False
        self._show_match()
        self.scroll_to_region(
            Region(0, self._row_of(found), 1, 1), animate=False, center=True, x_axis=False
        )
        self.refresh()

    def _count(self) -> None:
        """Count the matches in the lines that were not searched yet, in the background."""
        if self._search_text and self._lines and self._searched < len(self._numbers()):
            self.run_worker(
                partial(self._count_matches, self._lines, self._search_text),
                group="count",
                exclusive=True,
                exit_on_error=False,
            )

    async def _count_matches(self, lines: LogLines, text: str) -> None:
        numbers = self._numbers()
        while self._searched < len(numbers):
            start = self._searched
            part = numbers[: start + _CHUNK]
            matches = await asyncio.to_thread(lines.matches, text, part, start)
            if (lines, text, start) != (self._lines, self._search_text, self._searched):
                return
            self._matches += matches
            self._searched = len(part)
            self._show_match()

    def _show_match(self) -> None:
        """Show which match is highlighted, as `3 of 17`."""
        index = bisect_left(self._matches, self._found)
        if self._found in self._matches[index : index + 1]:
            more = "" if self._searched >= len(self._numbers()) else "+"
            self._show_status(f"{self._search_text!r}  {index + 1} of {len(self._matches)}{more}")

    def action_wrap(self) -> None:
        """Wrap long lines, or show one line each; the first visible line stays."""
        top, _ = self._line_at(self.scroll_offset.y)
        if not self._wraps and len(self._numbers()) > _MAX_WRAPPED:
            self._show_status(f"too long to wrap: more than {_MAX_WRAPPED:,} lines")
            return
        self._wraps = not self._wraps
        self._update_size()
        if not self._following:
            self.call_after_refresh(lambda: self.scroll_to(0, self._row_of(top), animate=False))
        self.refresh()

    def action_engine(self) -> None:
        self._shows_engine_log = not self._shows_engine_log
        self._open()

    def action_steps(self) -> None:
        self._shows_all_events = not self._shows_all_events
        self._forget()
        self._following = True
        self._update_size()
        self.refresh()

    def action_top(self) -> None:
        self.scroll_home(animate=False)

    def action_bottom(self) -> None:
        self._following = True
        self.scroll_end(animate=False)
