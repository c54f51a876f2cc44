"""Screen of all batches of clips: progress, failures, rate and output folder."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.widgets import DataTable, Static

from pvtool.dashboard import keys
from pvtool.dashboard.follow.batch import BatchFollower, BatchSnapshot, take_snapshot
from pvtool.dashboard.follow.batch_history import BatchHistory
from pvtool.dashboard.marks import bar, cell, state_cell
from pvtool.dashboard.messages import OpenBatch
from pvtool.dashboard.run_actions import ActionsScreen, stop_batch
from pvtool.dashboard.widgets.batch_panels import format_rate, group_digits
from pvtool.dashboard.widgets.key_footer import KeyFooter
from pvtool.dashboard.widgets.navigation import Navigation
from pvtool.dashboard.widgets.table import Table
from pvtool.text import duration, plain, shown
from pvtool_core.batches.folder import BatchFolder, list_batches
from pvtool_core.paths import batches_dir

POLL_SECONDS = 1.0
_NARROW = ("batch", "state", "clips", "failed", "per hour", "left")
_COLUMNS = ("batch", "state", "clips", "", "failed", "likeness", "per hour", "left", "folder")
_WIDE = 110
_BAR = 12
_OTHER_COLUMNS = 103  # width of all columns but the folder
_EMPTY = "No batches yet. Each `pv render NAME PROMPT...` command creates one."


@dataclass(frozen=True)
class BatchRow:
    """A batch as of the last poll."""

    snapshot: BatchSnapshot
    existing: int
    total: int
    failed: int
    likeness: float | None
    rate: float | None
    eta: float | None

    @classmethod
    def of(cls, snapshot: BatchSnapshot, history: BatchHistory) -> "BatchRow":
        now = time.time() if snapshot.live else history.last_update
        counts = history.existing, history.total, history.failed
        eta = history.eta(now) if snapshot.live else None
        return cls(snapshot, *counts, history.mean_likeness, history.rate(now), eta)


class RendersScreen(ActionsScreen):
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
        for folder in folders:
            await self._poll_batch(folder)
        order = [folder.name for folder in folders]
        self._rows = {name: self._rows[name] for name in order}
        self._show()

    async def _poll_batch(self, folder: BatchFolder) -> None:
        """Read a batch; a batch that ended and was read completely is skipped until it changes."""
        snapshot = await asyncio.to_thread(take_snapshot, folder)
        row = self._rows.get(folder.name)
        if row and row.snapshot == snapshot and folder.name not in self._followers:
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
        self._rows[folder.name] = BatchRow.of(snapshot, history)
        if not snapshot.live:
            del self._followers[folder.name]  # the row is kept and will not change

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
        self._show_problem()

    def _cell(self, row: BatchRow, column: str) -> Text:
        match column:
            case "batch":
                return Text(row.snapshot.name + (" !" if _problem(row) else ""))
            case "state":
                return state_cell(row.snapshot.state, self.app.theme_variables)
            case "clips":
                return Text(
                    f"{group_digits(row.existing)}/{group_digits(row.total)}", justify="right"
                )
            case "":
                return Text(bar(row.existing / row.total if row.total else 0, _BAR))
            case "failed":
                failed = cell(
                    group_digits(row.failed) if row.failed else "",
                    "text-error",
                    self.app.theme_variables,
                )
                failed.justify = "right"
                return failed
            case "likeness":
                likeness = "" if row.likeness is None else f"{row.likeness:.2f}"
                return Text(likeness, justify="right")
            case "per hour":
                return Text(format_rate(row.rate) if row.rate else "–", justify="right")
            case "left":
                return Text(duration(row.eta) if row.eta is not None else "", justify="right")
            case _:
                return Text(_shorten_path(row.snapshot.out, self.size.width - _OTHER_COLUMNS))

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

    def action_stop(self) -> None:
        if name := self._selected():
            self.perform(lambda: stop_batch(BatchFolder(batches_dir() / name)))

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


def _shorten_path(out: str, width: int) -> str:
    """Return the path of a folder, or its end if it does not fit into `width` cells."""
    path = plain(shown(Path(out))) if out else ""
    return path if len(path) <= width else f"…{path[1 - max(width, 2) :]}"
