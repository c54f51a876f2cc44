"""Dashboard application: modes, global actions and polling of all runs."""

import asyncio
import gc
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import App
from textual.filter import LineFilter
from textual.notifications import SeverityLevel
from textual.reactive import var
from textual.screen import Screen
from textual.theme import Theme

from pvtool.dashboard import keys
from pvtool.dashboard.commands import Commands, active_groups
from pvtool.dashboard.control_filter import ControlCharacterFilter
from pvtool.dashboard.driver import driver_of, make_driver_class
from pvtool.dashboard.follow.all_runs import Runs
from pvtool.dashboard.messages import NewBatch, OpenBatch, OpenComparison, OpenRun
from pvtool.dashboard.palette_filter import PaletteFilter
from pvtool.dashboard.preferences import read_theme, remember_theme
from pvtool.notices import terminal_signals
from pvtool.terminal import Terminal
from pvtool_core.batches.folder import BatchFolder
from pvtool_core.errors import PvError, UsageError, from_foreign
from pvtool_core.paths import batches_dir
from pvtool_core.settings.notify import NotifyConfig, read_notify_config
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import RunFolder
from pvtool_core.store.summary import RunSummary

POLL_SECONDS = 1.0
_CONTROL_FILTER = ControlCharacterFilter()
_PALETTE_FILTER = PaletteFilter()
_END_NOTICES: dict[State, tuple[str, SeverityLevel]] = {
    State.FINISHED: ("finished", "information"),
    State.FAILED: ("failed", "error"),
    State.LOST: ("lost its engine process", "error"),
}


def _runs_screen() -> "Screen[None]":
    from pvtool.dashboard.screens.runs import RunsScreen

    return RunsScreen()


def _identities_screen() -> "Screen[None]":
    from pvtool.dashboard.screens.identities import IdentitiesScreen

    return IdentitiesScreen()


def _prompts_screen() -> "Screen[None]":
    from pvtool.dashboard.screens.prompts import PromptsScreen

    return PromptsScreen()


def _renders_screen() -> "Screen[None]":
    from pvtool.dashboard.screens.renders import RendersScreen

    return RendersScreen()


class Dashboard(App[None]):
    """Application with the runs, identities, prompts and renders of one data folder.

    `first` is the run or batch to open at start; `others` are folders of runs of other machines.
    """

    TITLE = "pv"
    BINDINGS = keys.APP
    MODES: ClassVar[dict[str, str | Callable[[], Screen[None]]]] = {
        "runs": _runs_screen,
        "identities": _identities_screen,
        "prompts": _prompts_screen,
        "renders": _renders_screen,
    }
    DEFAULT_MODE = "runs"
    COMMANDS = {Commands}  # noqa: RUF012 - declared this way by Textual
    CSS_PATH = "dashboard.tcss"
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012 - declared this way by Textual
        (0, "-narrow"),
        (110, "-wide"),
        (180, "-very-wide"),
    ]
    VERTICAL_BREAKPOINTS = [  # noqa: RUF012 - as above
        (0, "-low"),
        (34, "-high"),
    ]

    summaries: var[list[RunSummary] | None] = var(None)

    def __init__(
        self,
        terminal: Terminal,
        root: Path,
        first: RunFolder | BatchFolder | None = None,
        others: Mapping[str, Path] | None = None,
    ) -> None:
        super().__init__(driver_class=make_driver_class(terminal))
        self.terminal = terminal
        self.runs = Runs(root, others or {})
        self._first = first
        self._notify_config = NotifyConfig()

    def get_line_filters(self) -> Sequence[LineFilter]:
        filters = (*super().get_line_filters(), _CONTROL_FILTER)
        return (*filters, _PALETTE_FILTER) if self.terminal.colours == "256" else filters

    def on_mount(self) -> None:
        self._notify_config = self._read_notify_config()
        if self.terminal.colours == "16":
            self.theme = "ansi-dark"  # other colours are rounded to the nearest of 16
        else:
            self._restore_theme()
        if isinstance(self._first, RunFolder):
            self.open(self._first)
        elif self._first:
            self.open_batch(self._first)
        self.poll_runs()
        # Textual's own objects are never freed; scanning them would cost a frame.
        self.call_after_refresh(gc.freeze)

    def _restore_theme(self) -> None:
        """Set the remembered theme unless TEXTUAL_THEME names one, and remember changes."""
        try:
            theme = None if os.environ.get("TEXTUAL_THEME") else read_theme()
            if theme and theme not in self.available_themes:
                raise UsageError(f"Unknown theme {theme!r}.", "T shows the themes.")
            self.theme = theme or self.theme
        except (PvError, OSError) as error:
            self.call_after_refresh(
                self.notify,
                f"{from_foreign(error).message} The default theme is used.",
                title="Cannot restore the theme.",
                severity="warning",
                markup=False,
            )
        self.theme_changed_signal.subscribe(self, self._remember_theme)

    @work(thread=True, exclusive=True, group="theme", exit_on_error=False)
    def _remember_theme(self, theme: Theme) -> None:
        try:
            remember_theme(theme.name)
        except OSError as error:
            self.notify(str(error), title="Cannot remember the theme.", markup=False)

    @work(exclusive=True, exit_on_error=False)
    async def poll_runs(self) -> None:
        """Read the summaries of all runs once per second."""
        reported = ""
        while True:
            try:
                self.summaries = await asyncio.to_thread(self.runs.summarize)
                reported = ""
            except Exception as error:  # the next attempt may succeed; report each error once
                if str(error) != reported:
                    reported = str(error)
                    self.notify(
                        reported, title="Cannot read the runs.", severity="error", markup=False
                    )
            await asyncio.sleep(POLL_SECONDS)

    def watch_summaries(
        self, before: list[RunSummary] | None, now: list[RunSummary] | None
    ) -> None:
        """Notify the user of runs that ended since the last poll."""
        states = {run.run: run.state for run in before or []}
        for run in now or []:
            if states.get(run.run, run.state) == run.state:
                continue
            if run.state in _END_NOTICES:
                outcome, severity = _END_NOTICES[run.state]
                self.notify(
                    f"{run.run} {outcome} at step {run.step}.", severity=severity, markup=False
                )
            if run.state in self._notify_config.on:
                self._signal(f"{run.run} {run.state} at step {run.step}.")

    def _signal(self, text: str) -> None:
        """Write the signals of config.toml to the terminal: by default its bell."""
        if driver := driver_of(self):
            for sequence in terminal_signals(self._notify_config.terminal, text):
                driver.write(sequence)

    def _read_notify_config(self) -> NotifyConfig:
        try:
            return read_notify_config()
        except PvError as error:
            self.call_after_refresh(
                self.notify,
                f"{error.message} Only the bell is used.",
                title="Cannot read the settings of notifications.",
                severity="warning",
                markup=False,
            )
            return NotifyConfig()

    def on_open_run(self, message: OpenRun) -> None:
        self.open(self.runs.folder(message.run))

    def open(self, folder: RunFolder) -> None:
        """Show a run above the list of runs."""
        from pvtool.dashboard.screens.run import RunScreen

        self.switch_mode("runs")
        if isinstance(self.screen, RunScreen):
            self.switch_screen(RunScreen(folder))
        else:
            self.push_screen(RunScreen(folder))

    def on_open_comparison(self, message: OpenComparison) -> None:
        """Show runs beside each other above the list of runs."""
        from pvtool.dashboard.screens.compare import CompareScreen

        self.push_screen(CompareScreen([self.runs.folder(name) for name in message.runs]))

    def show(self, identity: str) -> None:
        """Show an identity."""
        from pvtool.dashboard.screens.identities import IdentitiesScreen

        self.action_show_mode("identities")
        if isinstance(self.screen, IdentitiesScreen):
            self.screen.select(identity)

    def on_new_run(self) -> None:
        self.action_train()

    def on_open_batch(self, message: OpenBatch) -> None:
        self.open_batch(BatchFolder(batches_dir() / message.batch))

    def open_batch(self, folder: BatchFolder) -> None:
        """Show a batch above the list of batches."""
        from pvtool.dashboard.screens.batch import BatchScreen

        self.switch_mode("renders")
        if isinstance(self.screen, BatchScreen):
            self.switch_screen(BatchScreen(folder))
        else:
            self.push_screen(BatchScreen(folder))

    def on_new_batch(self, message: NewBatch) -> None:
        from pvtool.dashboard.screens.new_render import NewRenderScreen

        self.push_screen(NewRenderScreen(message.identity), self._rendering)

    def _rendering(self, folder: BatchFolder | None) -> None:
        if folder:
            self.open_batch(folder)

    def action_show_mode(self, mode: str) -> None:
        if self.current_mode != mode:
            self.switch_mode(mode)
        while len(self.screen_stack) > 1:
            self.pop_screen()

    def action_train(self) -> None:
        """Open the form for a new run, then show the run."""
        from pvtool.dashboard.screens.new_run import NewRunScreen

        self.push_screen(NewRunScreen(), self._started)

    def _started(self, folder: RunFolder | None) -> None:
        if folder:
            self.open(folder)

    def action_help(self) -> None:
        from pvtool.dashboard.screens.help import HelpScreen

        self.push_screen(HelpScreen(active_groups(self.screen)))

    def action_save_screen(self) -> None:
        try:
            path = self.save_screenshot(path=str(Path.cwd()))
            self.notify(path, title="Screenshot saved", markup=False)
        except OSError as error:
            self.notify(
                str(error), title="Cannot save the screenshot.", severity="error", markup=False
            )
