"""Log of a run: events or engine output of any length, followed and searched."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from rich.segment import Segment
from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Input

from pvtool.dashboard import keys
from pvtool.dashboard.follow.log_lines import LogLines
from pvtool.dashboard.follow.run import RunView
from pvtool_core.store.liveness import ENDED, State
from pvtool_core.store.runs import RunFolder

_POLL_SECONDS = 0.5
_MAX_CACHED = 4000


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
    COMPONENT_CLASSES: ClassVar[set[str]] = {"log--found", "log--loud"}
    DEFAULT_CSS = """
    LogView {
        height: 1fr;
        padding: 0 1;
        border-top: solid $panel;
        border-title-color: $text-muted;
        &:focus { border-top: solid $accent; }
        .log--found { background: $accent-muted; color: $text-accent; }
        .log--loud { color: $text-warning; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._folder: RunFolder | None = None
        self._lines: LogLines | None = None
        self._shows_engine_log = self._shows_all_events = False
        self._texts: dict[int, str] = {}
        self._search_text, self._found = "", -1
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
        self._texts, self._found, self._following = {}, -1, True
        self._poll()

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
                    self._texts, self._found = {}, -1
                    self.refresh()
                self._update_size()
        except OSError as error:
            self._show_status(f"{error.strerror}: {lines.path.name}")
        finally:
            self._reading = False

    def _update_size(self) -> None:
        """Adapt the scrollbars to the number of lines, and stay at the end if it is followed."""
        count = len(self._numbers())
        width = max((len(text) for text in self._texts.values()), default=0)
        if self.virtual_size != (width, count):
            self.virtual_size = Size(width, count)
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
        numbers, top = self._numbers(), self.scroll_offset.y
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
        self._load()

    def render_line(self, y: int) -> Strip:
        left, top = self.scroll_offset
        numbers, index = self._numbers(), top + y
        width = self.size.width
        if index >= len(numbers):
            return Strip.blank(width, self.rich_style)
        text = self._texts.get(numbers[index], "")
        style = self.rich_style
        if index == self._found:
            style = self.get_component_rich_style("log--found")
        elif "  warning  " in text or "  unreadable  " in text or "state=failed" in text:
            style += self.get_component_rich_style("log--loud", partial=True)
        return Strip([Segment(text, style)]).crop_extend(left, left + width, style)

    def action_search(self) -> None:
        if isinstance(self.parent, Log):
            self.parent.open_search()

    def search(self, text: str) -> None:
        """Go to the first visible or later line that contains `text`."""
        self._search_text, self._found = text, max(-1, self.scroll_offset.y - 1)
        self.action_next_match(1)

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
        self._show_status(f"{self._search_text!r} in line {found + 1}")
        self.scroll_to_region(Region(0, found, 1, 1), animate=False, center=True)
        self.refresh()

    def action_engine(self) -> None:
        self._shows_engine_log = not self._shows_engine_log
        self._open()

    def action_steps(self) -> None:
        self._shows_all_events = not self._shows_all_events
        self._found = -1
        self._following = True
        self._update_size()
        self.refresh()

    def action_top(self) -> None:
        self.scroll_home(animate=False)

    def action_bottom(self) -> None:
        self._following = True
        self.scroll_end(animate=False)
