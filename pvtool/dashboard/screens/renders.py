"""Screen of all batches of clips: progress, failures, rate and output folder."""

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.widgets import DataTable, Static

from pvtool.dashboard import keys
from pvtool.dashboard.follow.batch import (
    BatchFollower,
    BatchSnapshot,
    ListingFollower,
    take_snapshot,
)
from pvtool.dashboard.follow.batch_history import BatchHistory
from pvtool.dashboard.marks import bar, cell, state_cell
from pvtool.dashboard.messages import OpenBatch
from pvtool.dashboard.run_actions import BatchActionsScreen
from pvtool.dashboard.widgets.batch_panels import format_rate, group_digits
from pvtool.dashboard.widgets.key_footer import KeyFooter
from pvtool.dashboard.widgets.navigation import Navigation
from pvtool.dashboard.widgets.table import Table
from pvtool.text import duration, plain, shown
from pvtool_core.batches.folder import BatchFolder, list_batches
from pvtool_core.batches.listing import Listing, first_of
from pvtool_core.paths import batches_dir

POLL_SECONDS = 1.0
_NARROW = ("started", "identity", "prompts", "state", "clips", "failed")
_WIDE = ("started", "identity", "prompts", "run", "state", "clips", "failed", "likeness", "left")
_ALL = (*_WIDE[:6], "", *_WIDE[6:8], "per hour", "left", "folder")
_COLUMNS = [(150, _ALL), (110, _WIDE), (0, _NARROW)]
"""Columns from a number of cells on."""
_BAR = 12
_FLEXIBLE = {"prompts": 16, "folder": 12}
"""Columns that share the rest of the width, with their least widths."""
_MAX_NAME = 18
_MAX_PROMPT = 600  # characters that are formatted
_PADDING = 2
_EMPTY = "No batches yet. Press n to render clips, or use `pv render NAME PROMPT...`."


@dataclass(frozen=True)
class BatchRow:
    """A batch as of the last poll; the clips of `listing` are omitted."""

    snapshot: BatchSnapshot
    listing: Listing
    existing: int
    total: int
    failed: int
    likeness: float | None
    rate: float | None
    eta: float | None

    @classmethod
    def of(cls, snapshot: BatchSnapshot, listing: Listing, history: BatchHistory) -> "BatchRow":
        now = time.time() if snapshot.live else history.last_update
        counts = history.existing, history.total, history.failed
        eta = history.eta(now) if snapshot.live else None
        return cls(snapshot, listing, *counts, history.mean_likeness, history.rate(now), eta)


class RendersScreen(BatchActionsScreen):
    """Table of batches, newest first, updated while visible."""

    BINDINGS = keys.RENDERS
    DEFAULT_CSS = """
    RendersScreen {
        #batches { height: 1fr; background: $background; }
        #empty { height: 1fr; content-align: center middle; color: $text-muted; display: none; }
        #problem { display: none; height: auto; max-height: 3; padding: 0 1; }
        #problem { color: $text-error; background: $error-muted; }
        &.-empty #batches { display: none; }
        &.-empty #empty { display: block; }
    }
    """
    AUTO_FOCUS = "#batches"

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, BatchRow] = {}
        self._followers: dict[str, BatchFollower] = {}
        self._listings: dict[str, ListingFollower] = {}

    def compose(self) -> ComposeResult:
        yield Navigation("renders")
        yield Table(id="batches")
        yield Static(_EMPTY, id="empty", markup=False)
        yield Static(id="problem", markup=False)
        yield KeyFooter()

    def on_mount(self) -> None:
        self.run_worker(self._watch, group="watch", exit_on_error=False)

    def on_resize(self, _: events.Resize) -> None:
        self._show()

    def on_screen_resume(self) -> None:
        self._show()

    async def _watch(self) -> None:
        """Poll all batches while this screen is in front."""
        while True:
            if self.app.screen is self:
                await self._poll()
            await asyncio.sleep(POLL_SECONDS)

    async def _poll(self) -> None:
        folders = await asyncio.to_thread(lambda: list_batches(batches_dir())[::-1])
        names = {folder.name for folder in folders}
        self._rows = {name: row for name, row in self._rows.items() if name in names}
        self._listings = {name: found for name, found in self._listings.items() if name in names}
        for folder in folders:
            await self._poll_batch(folder)
        order = [folder.name for folder in folders]
        self._rows = {name: self._rows[name] for name in order}
        self._show()

    async def _poll_batch(self, folder: BatchFolder) -> None:
        """Read a batch; a batch that ended and was read completely is skipped until it changes."""
        names = self._listings.setdefault(folder.name, ListingFollower(folder, names_only=True))
        snapshot, listing = await asyncio.to_thread(lambda: (take_snapshot(folder), names.read()))
        row = self._rows.get(folder.name)
        known = row and (row.snapshot, row.listing) == (snapshot, listing)
        if known and folder.name not in self._followers:
            return
        follower = self._followers.setdefault(folder.name, BatchFollower(folder))
        more = True
        while more:
            try:
                _, more = await follower.read()
            except OSError:  # shown on the screen of the batch
                more = False
        history = follower.history
        history.expected, history.refused = snapshot.expected, snapshot.refused
        self._rows[folder.name] = BatchRow.of(snapshot, listing, history)
        if not snapshot.live:
            del self._followers[folder.name]  # the row is kept and will not change

    def _show(self) -> None:
        if not self.is_mounted or self.app.screen is not self:
            return
        self.set_class(not self._rows, "-empty")
        columns = next(names for width, names in _COLUMNS if self.size.width >= width)
        cells = {
            name: {column: self._cell(row, column) for column in columns}
            for name, row in self._rows.items()
        }
        _fit(cells.values(), columns, self.size.width)
        self.query_one(Table).show(columns, {name: [*row.values()] for name, row in cells.items()})
        self._show_problem()

    def _cell(self, row: BatchRow, column: str) -> Text:
        listing, colours = row.listing, self.app.theme_variables
        match column:
            case "started":
                return Text(_started(row.snapshot.name, self.size.width >= _COLUMNS[1][0]))
            case "identity":
                return _name(listing.identities)
            case "prompts":
                return Text(plain(first_of(listing.prompts)[:_MAX_PROMPT]))
            case "run":
                return _name(listing.runs)
            case "state":
                state = state_cell(row.snapshot.state, colours)
                return state.append(" !") if _problem(row) else state
            case "clips":
                return _right(f"{group_digits(row.existing)}/{group_digits(row.total)}")
            case "":
                return Text(bar(row.existing / row.total if row.total else 0, _BAR))
            case "failed":
                failed = group_digits(row.failed) if row.failed else ""
                return _right(cell(failed, "text-error", colours))
            case "likeness":
                return _right("" if row.likeness is None else f"{row.likeness:.2f}")
            case "per hour":
                return _right(format_rate(row.rate) if row.rate else "–")
            case "left":
                return _right(duration(row.eta) if row.eta is not None else "")
            case _:
                return Text(plain(shown(Path(row.snapshot.out))) if row.snapshot.out else "")

    def _show_problem(self) -> None:
        """Show the problem of the selected batch under the table."""
        row = self._rows.get(self._selected() or "")
        problem = _problem(row) if row else ""
        field = self.query_one("#problem", Static)
        field.display = bool(problem)
        field.update(plain(problem))

    def on_data_table_row_highlighted(self, _: DataTable.RowHighlighted) -> None:
        self._show_problem()

    def _selected(self) -> str | None:
        names, row = list(self._rows), self.query_one(Table).cursor_row
        return names[row] if 0 <= row < len(names) else None

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        self.action_open()

    def action_open(self) -> None:
        if name := self._selected():
            self.post_message(OpenBatch(name))

    def selected_batch(self) -> BatchFolder | None:
        """Return the batch under the cursor."""
        name = self._selected()
        return BatchFolder(batches_dir() / name) if name else None

    def selected_identity(self) -> str:
        """Return the first identity of the batch under the cursor."""
        row = self._rows.get(self._selected() or "")
        return next(iter(row.listing.identities), "") if row else ""

    def action_down(self) -> None:
        self.query_one(Table).action_cursor_down()

    def action_up(self) -> None:
        self.query_one(Table).action_cursor_up()

    def action_first(self) -> None:
        self.query_one(Table).action_first()

    def action_last(self) -> None:
        self.query_one(Table).action_last()


def _problem(row: BatchRow) -> str:
    """Return the problem of a batch or of one of its workers."""
    return row.snapshot.problem or next(
        (worker.problem for worker in row.snapshot.workers if worker.problem), ""
    )


def _started(name: str, with_year: bool) -> str:
    """Return when a batch was created, or its name if that does not tell."""
    created = BatchFolder(batches_dir() / name).created
    return created.strftime("%Y-%m-%d %H:%M" if with_year else "%m-%d %H:%M") if created else name


def _name(names: tuple[str, ...]) -> Text:
    text = Text(plain(first_of(name[:_MAX_NAME] for name in names)))
    text.truncate(_MAX_NAME, overflow="ellipsis")
    return text


def _right(text: Text | str) -> Text:
    cell = Text(text) if isinstance(text, str) else text
    cell.justify = "right"
    return cell


def _fit(rows: Collection[dict[str, Text]], columns: tuple[str, ...], width: int) -> None:
    """Shorten the prompts, and the start of the folders, to the rest of the width."""
    flexible = {name: least for name, least in _FLEXIBLE.items() if name in columns}
    for name in columns:
        if name not in flexible:
            width -= max([len(name), *(row[name].cell_len for row in rows)])
    width -= _PADDING * len(columns) + 1  # the scrollbar
    share = {name: max(least, width // len(flexible)) for name, least in flexible.items()}
    if "folder" in share:
        share["folder"] = min(
            share["folder"], max([len("folder"), *(row["folder"].cell_len for row in rows)])
        )
        share["prompts"] = max(share["prompts"], width - share["folder"])
    for row in rows:
        for name, most in share.items():
            if name == "folder" and row[name].cell_len > most:
                row[name] = Text(f"…{row[name].plain[1 - most :]}")
            row[name].truncate(most, overflow="ellipsis")
