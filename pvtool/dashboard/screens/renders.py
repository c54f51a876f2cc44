"""All batches of clips: how far they are, what failed, how fast they go, and where the clips lie."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.widgets import DataTable, Footer, Static

from pvtool.dashboard import keys
from pvtool.dashboard.follow.batch import BatchFollower, BatchSnapshot, look_at
from pvtool.dashboard.follow.batch_history import BatchHistory
from pvtool.dashboard.marks import bar, cell, state_cell
from pvtool.dashboard.messages import OpenBatch
from pvtool.dashboard.run_actions import ActionsScreen, stop_batch
from pvtool.dashboard.widgets.batch_panels import grouped, hourly
from pvtool.dashboard.widgets.navigation import Navigation
from pvtool.dashboard.widgets.table import Table
from pvtool.text import duration, plain, shown
from pvtool_core.batches.folder import BatchFolder, list_batches
from pvtool_core.paths import batches_dir

LOOK_SECONDS = 1.0
_NARROW = ("batch", "state", "clips", "failed", "an hour", "left")
_COLUMNS = ("batch", "state", "clips", "", "failed", "an hour", "left", "folder")
_WIDE = 110
_BAR = 12
_BESIDE = 92  # what the other columns take
_EMPTY = "No batch yet. `pv render NAME PROMPT...` makes clips; each command is a batch."


@dataclass(frozen=True)
class BatchRow:
    """A batch as it was when it was last looked at and read."""

    seen: BatchSnapshot
    there: int
    total: int
    failed: int
    rate: float | None
    eta: float | None

    @classmethod
    def of(cls, seen: BatchSnapshot, rendering: BatchHistory) -> "BatchRow":
        now = time.time() if seen.live else rendering.told
        counts = rendering.there, rendering.total, rendering.failed
        return cls(seen, *counts, rendering.rate(now), rendering.eta(now) if seen.live else None)


class RendersScreen(ActionsScreen):
    """A table of batches, newest first, kept true for as long as it is looked at."""

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

    def compose(self) -> ComposeResult:
        yield Navigation("renders")
        yield Table(id="batches")
        yield Static(_EMPTY, id="empty", markup=False)
        yield Static(id="problem", markup=False)
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        self.run_worker(self._watch, group="watch", exit_on_error=False)

    def on_resize(self, _: events.Resize) -> None:
        self._show()

    def on_screen_resume(self) -> None:
        self._show()

    async def _watch(self) -> None:
        """Look at all batches again and again; nothing is read while another screen lies in front."""
        while True:
            if self.app.screen is self:
                await self._look()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        folders = await asyncio.to_thread(lambda: list_batches(batches_dir())[::-1])
        there = {folder.name for folder in folders}
        self._rows = {name: row for name, row in self._rows.items() if name in there}
        for folder in folders:
            await self._look_at(folder)
        order = [folder.name for folder in folders]
        self._rows = {name: self._rows[name] for name in order}
        self._show()

    async def _look_at(self, folder: BatchFolder) -> None:
        """See how a batch is; one that has ended and was read to its end is left alone until it goes on."""
        seen = await asyncio.to_thread(look_at, folder)
        row = self._rows.get(folder.name)
        if row and row.seen == seen and folder.name not in self._followers:
            return
        follower = self._followers.setdefault(folder.name, BatchFollower(folder))
        more = True
        while more:
            try:
                _, more = await follower.read()
            except OSError:  # the batch's own screen says so; the others go on
                more = False
        follower.rendering.expected, follower.rendering.refused = seen.expected, seen.refused
        self._rows[folder.name] = BatchRow.of(seen, follower.rendering)
        if not seen.live:
            del self._followers[folder.name]  # a row is enough of what will not change

    def _show(self) -> None:
        if not self.is_mounted or self.app.screen is not self:
            return
        self.set_class(not self._rows, "-empty")
        columns = _COLUMNS if self.size.width >= _WIDE else _NARROW
        rows = {
            name: [self._cell(row, column) for column in columns]
            for name, row in self._rows.items()
        }
        self.query_one(Table).show(columns, rows)
        self._tell_problem()

    def _cell(self, row: BatchRow, column: str) -> Text:
        match column:
            case "batch":
                return Text(row.seen.name + (" !" if _problem(row) else ""))
            case "state":
                return state_cell(row.seen.state, self.app.theme_variables)
            case "clips":
                return Text(f"{grouped(row.there)}/{grouped(row.total)}", justify="right")
            case "":
                return Text(bar(row.there / row.total if row.total else 0, _BAR))
            case "failed":
                words = cell(
                    grouped(row.failed) if row.failed else "",
                    "text-error",
                    self.app.theme_variables,
                )
                words.justify = "right"
                return words
            case "an hour":
                return Text(hourly(row.rate) if row.rate else "–", justify="right")
            case "left":
                return Text(duration(row.eta) if row.eta is not None else "", justify="right")
            case _:
                return Text(_end_of(row.seen.out, self.size.width - _BESIDE))

    def _tell_problem(self) -> None:
        """Say under the table what is wrong with the batch at the cursor."""
        row = self._rows.get(self._at_cursor() or "")
        words = _problem(row) if row else ""
        field = self.query_one("#problem", Static)
        field.display = bool(words)
        field.update(plain(words))

    def on_data_table_row_highlighted(self, _: DataTable.RowHighlighted) -> None:
        self._tell_problem()

    def _at_cursor(self) -> str | None:
        names, row = list(self._rows), self.query_one(Table).cursor_row
        return names[row] if 0 <= row < len(names) else None

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        self.action_open()

    def action_open(self) -> None:
        if name := self._at_cursor():
            self.post_message(OpenBatch(name))

    def action_stop(self) -> None:
        if name := self._at_cursor():
            self.act(lambda: stop_batch(BatchFolder(batches_dir() / name)))

    def action_down(self) -> None:
        self.query_one(Table).action_cursor_down()

    def action_up(self) -> None:
        self.query_one(Table).action_cursor_up()

    def action_first(self) -> None:
        self.query_one(Table).action_first()

    def action_last(self) -> None:
        self.query_one(Table).action_last()


def _problem(row: BatchRow) -> str:
    """What is wrong with a batch, of itself or of one of its engines."""
    return row.seen.problem or next(
        (worker.problem for worker in row.seen.workers if worker.problem), ""
    )


def _end_of(out: str, room: int) -> str:
    """As much of a folder's path as there is room for: its end tells more than its beginning."""
    path = plain(shown(Path(out))) if out else ""
    return path if len(path) <= room else f"…{path[1 - max(room, 2) :]}"
