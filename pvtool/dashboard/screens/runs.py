"""Screen of all runs with their state and progress, and actions on them."""

from itertools import islice
from typing import TYPE_CHECKING, cast

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.widgets import DataTable, Input, Static

from pvtool.dashboard import keys
from pvtool.dashboard.marks import bar, number, state_cell
from pvtool.dashboard.messages import NewRun, OpenRun
from pvtool.dashboard.run_actions import RunActionsScreen
from pvtool.dashboard.widgets.key_footer import KeyFooter
from pvtool.dashboard.widgets.navigation import Navigation
from pvtool.dashboard.widgets.table import Table
from pvtool.jobs.run_filter import matches
from pvtool.text import duration, plain
from pvtool_core.settings.objectives import loss_label
from pvtool_core.store.runs import RunFolder
from pvtool_core.store.summary import RunSummary

if TYPE_CHECKING:
    from pvtool.dashboard.follow.all_runs import RunsApp

_NARROW = ("run", "identity", "state", "step", "left")
_COLUMNS = ("run", "identity", "preset", "state", "step", "", "left")
_NARROW_LOSSES = 2
_WIDE = 120
_BAR = 12
_LONGEST_BAR = 60
_EMPTY = "No runs yet. Press n to start one, or 2 to add an identity first."
_FILTERED = "No matching runs. Press escape to show all."


class RunsScreen(RunActionsScreen):
    """Table of runs, newest first, updated automatically."""

    BINDINGS = keys.RUNS
    DEFAULT_CSS = """
    RunsScreen {
        #runs { height: 1fr; background: $background; }
        #filter { display: none; height: 1; border: none; padding: 0 1; }
        #filter.-shown { display: block; }
        #empty { height: 1fr; content-align: center middle; color: $text-muted; display: none; }
        #problem { display: none; height: auto; max-height: 3; padding: 0 1; }
        #problem { color: $text-error; background: $error-muted; }
        &.-empty #runs { display: none; }
        &.-empty #empty { display: block; }
    }
    """
    AUTO_FOCUS = "#runs"

    def __init__(self) -> None:
        super().__init__()
        self._shown: list[RunSummary] = []
        self._bar = _BAR
        self._losses: dict[str, str] = {}

    def compose(self) -> ComposeResult:
        yield Navigation("runs")
        yield Input(placeholder="filter words", id="filter", compact=True)
        yield Table(id="runs")
        yield Static(_EMPTY, id="empty")
        yield Static(id="problem", markup=False)
        yield KeyFooter()

    @property
    def dashboard(self) -> "RunsApp":
        return cast("RunsApp", self.app)

    def on_mount(self) -> None:
        self.watch(self.app, "summaries", self._show)

    def on_resize(self, _: events.Resize) -> None:
        self._show(self.dashboard.summaries)

    def on_screen_resume(self) -> None:
        self._show(self.dashboard.summaries)

    def _show(self, summaries: list[RunSummary] | None) -> None:
        """Show the runs that match the filter; None before the first poll."""
        if summaries is None or not self.is_mounted or self.app.screen is not self:
            return
        words = self.query_one("#filter", Input).value.split()
        self._shown = [run for run in summaries if matches(run, words)]
        self.set_class(not self._shown, "-empty")
        self.query_one("#empty", Static).update(_FILTERED if summaries else _EMPTY)
        columns = self._columns(summaries)
        self._bar = min(_LONGEST_BAR, _BAR + max(0, self.size.width - _WIDE))
        rows = {run.run: [self._cell(run, column) for column in columns] for run in self._shown}
        self.query_one(Table).show(columns, rows)
        self._show_problem()

    def _columns(self, runs: list[RunSummary]) -> list[str]:
        """Return the columns that fit; `_losses` maps column titles to names of losses."""
        names = dict.fromkeys(name for run in runs for name in run.losses)
        self._losses = {loss_label(name): name for name in names}
        if self.size.width >= _WIDE:
            return [*_COLUMNS, *self._losses, "started"]
        return [*_NARROW, *islice(self._losses, _NARROW_LOSSES)]

    def _show_problem(self) -> None:
        """Show the problem of the selected run under the table."""
        run = self._selected()
        self.show_actions_for(run.state if run else None)
        field = self.query_one("#problem", Static)
        field.display = bool(run and run.problem)
        field.update(plain(run.problem) if run else "")

    def on_data_table_row_highlighted(self, _: DataTable.RowHighlighted) -> None:
        self._show_problem()

    def _cell(self, run: RunSummary, column: str) -> Text:
        match column:
            case "state":
                return state_cell(run.state, self.app.theme_variables)
            case "step":
                return Text(
                    f"{run.step}/{run.iterations}" if run.iterations else "–", justify="right"
                )
            case "":
                return Text(bar(run.step / run.iterations if run.iterations else 0, self._bar))
            case "left":
                return Text(duration(run.eta) if run.eta else "", justify="right")
            case _ if column in self._losses:
                trend = run.losses.get(self._losses[column])
                mean, arrow = (trend.mean, trend.arrow) if trend else (None, "")
                return Text(f"{number(mean)} {arrow:1}", justify="right")
            case "started":
                return Text(run.started[:16].replace("T", " "))
            case "run":
                return Text(f"{run.run} !" if run.problem else run.run)
            case _:
                return Text(str(getattr(run, column)))

    def selected_run(self) -> RunFolder | None:
        run = self._selected()
        return self.dashboard.runs.folder(run.run) if run else None

    def _selected(self) -> RunSummary | None:
        row = self.query_one(Table).cursor_row
        return self._shown[row] if 0 <= row < len(self._shown) else None

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        self.action_open()

    def action_open(self) -> None:
        if folder := self.selected_run():
            self.post_message(OpenRun(folder.name))

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
        self._show(self.dashboard.summaries)

    def on_input_submitted(self, _: Input.Submitted) -> None:
        self.query_one(Table).focus()

    def on_key(self, event: events.Key) -> None:
        field = self.query_one("#filter", Input)
        if event.key == "escape" and field.has_class("-shown"):
            field.value = ""
            field.remove_class("-shown")
            self.query_one(Table).focus()
