"""Screen of all runs with their state and progress, and actions on them."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, cast

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.timer import Timer
from textual.widgets import DataTable, Input, Static

from pvtool.dashboard import keys
from pvtool.dashboard.follow.run_preview import read_highlights
from pvtool.dashboard.messages import NewRun, OpenComparison, OpenRun
from pvtool.dashboard.run_actions import RunActionsScreen
from pvtool.dashboard.screens.column_chooser import ColumnChooser
from pvtool.dashboard.screens.forms import Confirm
from pvtool.dashboard.screens.notes_form import NotesForm
from pvtool.dashboard.screens.sweep import SweepScreen
from pvtool.dashboard.widgets.identity_list import count_noun
from pvtool.dashboard.widgets.key_footer import KeyFooter
from pvtool.dashboard.widgets.navigation import Navigation
from pvtool.dashboard.widgets.run_columns import (
    RunColumn,
    cell_of,
    fitting,
    heading,
    ordered,
    run_columns,
)
from pvtool.dashboard.widgets.run_preview import WIDTH, RunPreview
from pvtool.dashboard.widgets.table import Table
from pvtool.jobs.run_filter import matches
from pvtool.jobs.run_removal import delete_runs
from pvtool.text import plain
from pvtool_core.store.runs import RunFolder, RunNotes
from pvtool_core.store.summary import RunSummary

if TYPE_CHECKING:
    from pvtool.dashboard.follow.all_runs import RunsApp

_EMPTY = "No runs yet. Press n to start one, or 2 to add an identity first."
_FILTERED = "No matching runs. Press escape to show all."
_MARK = "◆ "
_FEWEST = 2
_WITH_PREVIEW = 140
_PREVIEW_DELAY = 0.15  # seconds; a held key passes many runs
_FILTER_HELP = "words, or state: identity: preset: run: note: tag: with a word"


class RunsScreen(RunActionsScreen):
    """Table of runs, newest first by default, updated automatically."""

    BINDINGS = keys.RUNS
    DEFAULT_CSS = """
    RunsScreen {
        #main { height: 1fr; }
        #runs { width: 1fr; height: 1fr; background: $background; }
        &.-alone #preview { display: none; }
        #filter { display: none; height: 1; border: none; padding: 0 1; }
        #filter.-shown { display: block; }
        #empty { height: 1fr; content-align: center middle; color: $text-muted; display: none; }
        #problem { display: none; height: auto; max-height: 3; padding: 0 1; }
        #problem { color: $text-error; background: $error-muted; }
        #count { height: 1; padding: 0 1; color: $text-muted; }
        &.-empty #main { display: none; }
        &.-empty #empty { display: block; }
    }
    """
    AUTO_FOCUS = "#runs"
    HORIZONTAL_BREAKPOINTS = [(0, "-alone"), (_WITH_PREVIEW, "-with-preview")]  # noqa: RUF012 - declared this way by Textual

    def __init__(self) -> None:
        super().__init__()
        self._shown: list[RunSummary] = []
        self._marked: set[str] = set()
        self._hidden: set[str] = set()
        self._sorted, self._descending = "started", True
        self._rows: dict[str, tuple[RunSummary, object, list[Text]]] = {}
        self._previewed: object = None
        self._preview_timer: Timer | None = None

    def compose(self) -> ComposeResult:
        yield Navigation("runs")
        yield Input(placeholder=_FILTER_HELP, id="filter", compact=True)
        with Horizontal(id="main"):
            yield Table(id="runs")
            yield RunPreview(id="preview")
        yield Static(_EMPTY, id="empty")
        yield Static(id="problem", markup=False)
        yield Static(id="count")
        yield KeyFooter()

    @property
    def dashboard(self) -> "RunsApp":
        return cast("RunsApp", self.app)

    def on_mount(self) -> None:
        self.watch(self.app, "summaries", self._show)

    def on_resize(self, _: events.Resize) -> None:
        self._show_again()

    def on_screen_resume(self) -> None:
        self._show_again()

    def _show_again(self) -> None:
        self._show(self.dashboard.summaries)

    def _show(self, summaries: list[RunSummary] | None) -> None:
        """Show the runs that match the filter; None before the first poll."""
        if summaries is None or not self.is_mounted or self.app.screen is not self:
            return
        words = self.query_one("#filter", Input).value.split()
        every = run_columns(summaries)
        found = [run for run in summaries if matches(run, words)]
        self._shown = ordered(found, every.get(self._sorted), self._descending)
        self._marked &= {run.run for run in self._shown}
        self.set_class(not self._shown, "-empty")
        self.query_one("#empty", Static).update(_FILTERED if summaries else _EMPTY)
        self._show_table({name: each for name, each in every.items() if name not in self._hidden})
        self._show_count(len(summaries))
        self._show_problem()

    def _show_table(self, columns: dict[str, RunColumn]) -> None:
        room = self.size.width - (len(_MARK) if self._marked else 0) - 1  # of the scrollbar
        room -= WIDTH if self._has_preview else 0
        widths = fitting(columns, self._shown, room)
        mark = "▼" if self._descending else "▲"
        headings = {
            name: heading(name, columns[name].right, mark if name == self._sorted else " ")
            for name in widths
        }
        rows = {run.run: self._row(run, columns, widths) for run in self._shown}
        self.query_one(Table).show(list(widths), rows, headings)

    def _row(
        self, run: RunSummary, columns: dict[str, RunColumn], widths: dict[str, int]
    ) -> list[Text]:
        """Return the cells of a run; those of an unchanged run are kept."""
        look = (widths, bool(self._marked), run.run in self._marked, self.app.theme)
        known = self._rows.get(run.run)
        if known and known[0] is run and known[1] == look:
            return known[2]
        colours = self.app.theme_variables
        cells = [
            cell_of(run, name, columns[name], width, colours) for name, width in widths.items()
        ]
        cells[0] = self._with_mark(run, cells[0])
        self._rows[run.run] = run, look, cells
        return cells

    def _with_mark(self, run: RunSummary, cell: Text) -> Text:
        """Return the name of a run with a mark if it is selected, while any is."""
        if not self._marked:
            return cell
        marked = run.run in self._marked
        return Text(f"{_MARK if marked else '  '}{cell}", style="bold" if marked else "")

    def _show_count(self, total: int) -> None:
        """Show how many runs are listed and selected, and their order."""
        listed, count = len(self._shown), count_noun(total, "run")
        parts = [f"{listed} of {count}" if listed < total else count]
        parts += [f"{len(self._marked)} selected"] if self._marked else []
        direction = "descending" if self._descending else "ascending"
        parts += [f"sorted by {self._sorted}, {direction}"]
        self.query_one("#count", Static).update(Content("  ·  ".join(parts)), layout=False)

    def _show_problem(self) -> None:
        """Show the problem of the current run under the table."""
        run = self._current()
        self.show_actions_for(run.state if run else None)
        field = self.query_one("#problem", Static)
        field.display = bool(run and run.problem)
        field.update(plain(run.problem) if run else "")
        if run and self._has_preview:
            self._preview(run)

    @property
    def _has_preview(self) -> bool:
        return self.size.width >= _WITH_PREVIEW

    def _preview(self, run: RunSummary) -> None:
        """Show the figures of a run at once, and its curve and sample when they are read."""
        self.query_one(RunPreview).show_run(run)
        shown = (run.run, run.likeness, run.newest_likeness)
        if shown != self._previewed:
            self._previewed = shown
            if self._preview_timer:
                self._preview_timer.stop()
            read = partial(self._read_highlights, run)
            self._preview_timer = self.set_timer(
                _PREVIEW_DELAY,
                lambda: self.run_worker(read, group="preview", exclusive=True, exit_on_error=False),
            )

    async def _read_highlights(self, run: RunSummary) -> None:
        folder = self.dashboard.runs.folder(run.run)
        highlights = await asyncio.to_thread(read_highlights, folder)
        self.query_one(RunPreview).show_highlights(run, highlights)

    def on_data_table_row_highlighted(self, _: DataTable.RowHighlighted) -> None:
        self._show_problem()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by a column, or in the other direction."""
        name = str(event.column_key.value)
        if name == self._sorted:
            self.action_reverse()
        else:
            self._sort_by(name)

    def _sort_by(self, name: str) -> None:
        column = run_columns(self.dashboard.summaries or [])[name]
        self._sorted, self._descending = name, column.descending
        self._show_again()

    def action_sort(self, by: int) -> None:
        """Sort by another of the shown columns."""
        names = [str(key.value) for key in self.query_one(Table).columns]
        if names:
            index = names.index(self._sorted) if self._sorted in names else -1
            self._sort_by(names[(index + by) % len(names)])

    def action_reverse(self) -> None:
        self._descending = not self._descending
        self._show_again()

    def action_columns(self) -> None:
        """Choose the columns; those that do not fit are left out."""
        names = run_columns(self.dashboard.summaries or [])
        choosable = [name for name in names if name != "run"]
        self.app.push_screen(ColumnChooser(choosable, self._hidden))

    def selected_runs(self) -> list[RunFolder]:
        """Return the marked runs, or the current one."""
        run = self._current()
        names = [each.run for each in self._shown if each.run in self._marked]
        return [self.dashboard.runs.folder(name) for name in names or ([run.run] if run else [])]

    def _current(self) -> RunSummary | None:
        row = self.query_one(Table).cursor_row
        return self._shown[row] if 0 <= row < len(self._shown) else None

    def action_mark(self) -> None:
        """Mark the current run and go to the next one."""
        if run := self._current():
            self._marked ^= {run.run}
            self._show_again()
            self.action_down()

    def action_mark_all(self) -> None:
        listed = {run.run for run in self._shown}
        self._marked = set[str]() if self._marked == listed else listed
        self._show_again()

    def action_compare(self) -> None:
        """Compare the selected runs."""
        if len(self._marked) < _FEWEST:
            self.notify("Select two or more runs with space.", title="Nothing to compare.")
            return
        self.post_message(OpenComparison([folder.name for folder in self.selected_runs()]))

    def action_note(self) -> None:
        """Edit the note and the tags of the current run."""
        if run := self._current():
            folder = self.dashboard.runs.folder(run.run)
            self.app.push_screen(NotesForm(folder, RunNotes(note=run.note, tags=run.tags)))

    def action_sweep(self) -> None:
        """Show the tables of the sweeps that use the current run."""
        run = self._current()
        if run and run.sweeps:
            self.app.push_screen(SweepScreen(run.sweeps))
        else:
            self.notify("`pv sweep` creates runs of a sweep.", title="The run is of no sweep.")

    def action_remove(self) -> None:
        """Delete the selected runs after confirmation."""
        folders = self.selected_runs()
        if not folders:
            return
        states = {run.run: f"{run.run}  {run.state}, step {run.step}" for run in self._shown}
        many = f"{len(folders)} runs" if len(folders) > 1 else folders[0].name
        lines = [
            "This permanently deletes checkpoints, samples and evaluation of:",
            *(f"  {states[folder.name]}" for folder in folders),
        ]
        dialog = Confirm(f"Delete {many}?", lines, "Delete", partial(delete_runs, folders), many)
        self.app.push_screen(dialog, self._report_removal)

    def _report_removal(self, removed: str | None) -> None:
        if removed:
            self.notify(f"Deleted {removed}.", markup=False)

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        self.action_open()

    def action_open(self) -> None:
        if run := self._current():
            self.post_message(OpenRun(run.run))

    def action_new(self) -> None:
        self.post_message(NewRun())

    def action_down(self) -> None:
        self.query_one(Table).action_cursor_down()

    def action_up(self) -> None:
        self.query_one(Table).action_cursor_up()

    def action_first(self) -> None:
        self.query_one(Table).action_first()

    def action_last(self) -> None:
        self.query_one(Table).action_last()

    def action_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.add_class("-shown")
        field.focus()

    def on_input_changed(self, _: Input.Changed) -> None:
        self._show_again()

    def on_input_submitted(self, _: Input.Submitted) -> None:
        self.query_one(Table).focus()

    def action_clear(self) -> None:
        """Clear the filter, or else the selection."""
        field = self.query_one("#filter", Input)
        if field.has_class("-shown"):
            field.value = ""
            field.remove_class("-shown")
            self.query_one(Table).focus()
        else:
            self._marked.clear()
        self._show_again()
