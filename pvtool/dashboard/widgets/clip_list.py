"""List of all clips of a batch; only visible lines are drawn, so that it may have any length."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Static

from pvtool.dashboard import keys
from pvtool.dashboard.follow.batch_history import FAILED
from pvtool.text import plain
from pvtool_core.batches.listing import WAITING, Listing
from pvtool_core.store.events import ClipEvent

_SIGNS = {"done": "✓", "skipped": "✓", "elsewhere": "✓", FAILED: "✗", WAITING: "○"}
_WORDS = {"done": "rendered"}
_STYLES = {"done": "clips--done", FAILED: "clips--failed"}
_GAP = "  "
_WIDE, _VERY_WIDE = 64, 90  # cells from which the state is a word, and from which runs are shown
_MAX_NAME = 18
_MAX_TEXT = 600  # characters of a text that are formatted for one line


@dataclass(frozen=True)
class Column:
    """A column: the text of a clip in it and the style of that text."""

    name: str
    width: int
    text: Callable[[ClipEvent], str]
    style: Callable[[ClipEvent], str] = lambda _: ""
    right: bool = False

    def cell(self, text: str, width: int) -> str:
        """Return a text cut or filled to `width` cells."""
        text = plain(text[:_MAX_TEXT])
        if cell_len(text) > width:
            return set_cell_size(text, width - 1) + "…"
        return text.rjust(width) if self.right else set_cell_size(text, width)


def columns_for(listing: Listing, width: int) -> list[Column]:
    """Return the columns that fit; a property that all clips share has none."""
    clips, wide = listing.clips.values(), width >= _WIDE
    people = dict.fromkeys(clip.identity for clip in clips)
    runs = dict.fromkeys(_run(clip) for clip in clips)
    seed = max((len(str(clip.seed)) for clip in clips), default=1)
    columns = [Column("State" if wide else "", 11 if wide else 1, _state(wide), _state_style)]
    heading = "Likeness" if wide else "Like."
    columns.append(Column(heading, len(heading), _likeness, right=True))
    if len(people) > 1:
        columns.append(Column("Identity", _width(8, people), lambda clip: clip.identity))
    if len(runs) > 1 and width >= _VERY_WIDE:
        columns.append(Column("Run", _width(3, runs), _run))
    columns.append(
        Column("Seed", min(max(4, seed), _MAX_NAME), lambda clip: str(clip.seed), right=True)
    )
    if len({clip.strength for clip in clips}) > 1:
        columns.append(Column("Str.", 4, _strength, right=True))
    taken = sum(column.width + len(_GAP) for column in columns)
    return [
        *columns,
        Column("Prompt, or reason of a failure", max(8, width - taken), _text, _text_style),
    ]


def _width(least: int, names: Sequence[str] | dict[str, None]) -> int:
    return min(_MAX_NAME, max(least, *(cell_len(plain(name[:_MAX_NAME])) for name in names)))


def _state(with_word: bool) -> Callable[[ClipEvent], str]:
    def text(clip: ClipEvent) -> str:
        sign = _SIGNS[clip.status]
        return f"{sign} {_WORDS.get(clip.status, clip.status)}" if with_word else sign

    return text


def _state_style(clip: ClipEvent) -> str:
    return _STYLES.get(clip.status, "clips--muted")


def _likeness(clip: ClipEvent) -> str:
    return f"{clip.likeness.mean:.2f}" if clip.likeness else ""


def _strength(clip: ClipEvent) -> str:
    return "" if clip.strength is None else f"{clip.strength:g}"


def _run(clip: ClipEvent) -> str:
    return f"{clip.run}@{clip.step}" if clip.run else "–"


def _text(clip: ClipEvent) -> str:
    if clip.identity:
        return clip.reason or clip.prompt
    return f"{clip.path}: {clip.reason}"  # a refused row


def _text_style(clip: ClipEvent) -> str:
    return "clips--failed" if clip.reason else "clips--muted" if clip.status == WAITING else ""


class ClipLines(ScrollView, can_focus=True):
    """The lines of the list, with a cursor."""

    BINDINGS = keys.CLIPS
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "clips--cursor",
        "clips--done",
        "clips--failed",
        "clips--muted",
    }
    DEFAULT_CSS = """
    ClipLines {
        height: 1fr; scrollbar-gutter: stable; overflow-x: hidden;
        .clips--cursor { background: $block-cursor-blurred-background; }
        .clips--done { color: $text-success; }
        .clips--failed { color: $text-error; }
        .clips--muted { color: $text-muted; }
        &:focus .clips--cursor {
            background: $block-cursor-background; color: $block-cursor-foreground;
        }
    }
    """
    cursor: reactive[int] = reactive(0, init=False)

    class Highlighted(Message):
        """Another clip is under the cursor; `moved` if the cursor did, rather than the list."""

        def __init__(self, moved: bool) -> None:
            self.moved = moved
            super().__init__()

    class Opened(Message):
        """The clip under the cursor was chosen."""

        def __init__(self, clip: ClipEvent) -> None:
            self.clip = clip
            super().__init__()

    def __init__(self) -> None:
        super().__init__()
        self.clips: Sequence[ClipEvent] = ()
        self.columns: Sequence[Column] = ()
        self._reported: ClipEvent | None = None

    @property
    def selected(self) -> ClipEvent | None:
        """Return the clip under the cursor."""
        return self.clips[self.cursor] if self.cursor < len(self.clips) else None

    def fill(self, clips: Sequence[ClipEvent], columns: Sequence[Column], stay: bool) -> None:
        """Show these clips; the cursor stays at its clip if `stay`, or goes to the top."""
        path = self.selected.path if self.selected and stay else None
        self.clips, self.columns = clips, columns
        self.virtual_size = Size(self.size.width, len(clips))
        place = min(self.cursor, max(0, len(clips) - 1)) if stay else 0
        if path is not None and not (clips and clips[place].path == path):
            place = next((row for row, clip in enumerate(clips) if clip.path == path), place)
        with self.prevent(self.Highlighted):
            self.cursor = place
        self.refresh()
        if self.selected is not self._reported:
            self._reported = self.selected
            self.post_message(self.Highlighted(moved=False))

    def watch_cursor(self, before: int, now: int) -> None:
        """Keep the cursor on the screen."""
        top = self.scroll_offset.y
        for row in (before, now):
            self.refresh(Region(0, row - top, self.size.width, 1))
        self.scroll_to_region(Region(0, now, 1, 1), animate=False)
        self.post_message(self.Highlighted(moved=True))

    def render_line(self, y: int) -> Strip:
        """Draw a line."""
        row, width = self.scroll_offset.y + y, self.size.width
        style = self.rich_style
        if row >= len(self.clips):
            return Strip.blank(width, style)
        clip, at_cursor = self.clips[row], row == self.cursor
        if at_cursor:
            style = self.get_component_rich_style("clips--cursor")
        segments = list[Segment]()
        for column in self.columns:
            name = "" if at_cursor else column.style(clip)
            own = style + self.get_component_rich_style(name, partial=True) if name else style
            segments += [Segment(column.cell(column.text(clip), column.width), own)]
            segments += [Segment(_GAP, style)]
        return Strip(segments[:-1]).crop_extend(0, width, style)

    def on_click(self, event: events.Click) -> None:
        """Select the clip; a double click opens it."""
        row = self.scroll_offset.y + event.y
        if row < len(self.clips):
            self.cursor = row
            if event.chain == 2:
                self.action_open()

    def action_open(self) -> None:
        """Show the details of the clip."""
        if self.selected:
            self.post_message(self.Opened(self.selected))

    def action_move(self, by: int) -> None:
        """Move the cursor."""
        self.cursor = max(0, min(len(self.clips) - 1, self.cursor + by))

    def action_move_page(self, by: int) -> None:
        """Move the cursor by pages."""
        self.action_move(by * max(1, self.size.height - 1))

    def action_first(self) -> None:
        """Go to the first clip."""
        self.cursor = 0

    def action_last(self) -> None:
        """Go to the last clip."""
        self.cursor = max(0, len(self.clips) - 1)


class ClipList(Vertical):
    """List of clips under its headings, with a line that says which clips it shows."""

    DEFAULT_CSS = """
    ClipList {
        padding: 0 1; border-top: solid $panel; border-title-color: $text-muted;
        &:focus-within { border-top: solid $accent; }
        #headings { height: 1; color: $text-muted; text-style: bold; text-wrap: nowrap; }
        #nothing { height: 1fr; content-align: center middle; color: $text-muted; display: none; }
        &.-empty #nothing { display: block; }
        &.-empty ClipLines { height: 1; }
    }
    """

    def compose(self) -> ComposeResult:
        """Yield the headings and the lines."""
        yield Static(id="headings", markup=False)
        yield ClipLines()
        yield Static(id="nothing", markup=False)

    @property
    def lines(self) -> ClipLines:
        """Return the lines."""
        return self.query_one(ClipLines)

    def __init__(self) -> None:
        super().__init__()
        self._columns: tuple[Listing, int, list[Column]] | None = None

    def show(
        self, clips: Sequence[ClipEvent], listing: Listing, title: str, empty: str, stay: bool
    ) -> None:
        """Show clips under a title, or the message `empty` without any."""
        width = self.lines.scrollable_content_region.width
        if self._columns is None or self._columns[:2] != (listing, width):
            self._columns = (listing, width, columns_for(listing, width))
        columns = self._columns[2]
        headings = (column.cell(column.name, column.width) for column in columns)
        self.query_one("#headings", Static).update(_GAP.join(headings) if clips else "")
        self.query_one("#nothing", Static).update(empty)
        self.set_class(not clips, "-empty")
        self.border_title = plain(title)
        self.lines.fill(clips, columns, stay)
